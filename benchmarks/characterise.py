"""Does `characterise` ever claim what is not so? Nine devices, their wiring hidden, under each condition.

A claim is wrong where the device is called linear and is not, where a coupling is claimed that does not hold, where a
period is claimed that is not its own, and where a sound device is called faulty. A weaker claim is none.
"""

from __future__ import annotations

import argparse
import math
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

import blackprop as bp
from blackprop import Coupling
from blackprop.characterisation import Characterisation
from blackprop.devices import Declared, Drifting, Noisy

DEVICES = (
    lambda: bp.devices.Matrix(6, 4),
    lambda: bp.devices.LightModulator(6, 4),
    lambda: bp.devices.Microring(6, 4),
    lambda: bp.devices.MZIMesh(6, 4),
    lambda: bp.devices.ThreeSplitterMesh(6, 4),
    lambda: bp.devices.Monarch(9, 6),
    lambda: bp.devices.LowRank(6, 4, rank=2),
    lambda: bp.devices.Resampling(6, 4),
    lambda: bp.devices.Diffraction(9, 4),
)


class Camera(bp.Device):
    """Readings above a dark level, rounded to multiples of a step, clipped."""

    def __init__(self, device: bp.Device, dark: float = 0.0, step: float = 0.0, full: float = math.inf) -> None:
        super().__init__(device.in_shape, device.out_shape, device.theta)
        self.device, self.dark, self.step, self.full = device, dark, step, full

    def program(self, theta: Tensor, /) -> None:
        self.device.program(theta)

    def read(self, x: Tensor, /) -> Tensor:
        y = self.device.read(x) + self.dark
        return ((y / self.step).round() * self.step if self.step else y).clamp(-self.full, self.full)


@dataclass(frozen=True)
class Condition:
    """How the device is wrapped, and what that leaves of its linearity."""

    wrap: Callable[[bp.Device], bp.Device]
    linear: bool = True
    sound: bool = True


CONDITIONS = {
    "plain": Condition(lambda d: d),
    "read noise 2 %": Condition(lambda d: Noisy(d, read=0.02)),
    "read noise 5 %": Condition(lambda d: Noisy(d, read=0.05)),
    "proportional noise 2 %": Condition(lambda d: Noisy(d, proportional=0.02)),
    "drift 0.001": Condition(lambda d: Drifting(d, per_programming=1e-3)),
    "drift 0.01": Condition(lambda d: Drifting(d, per_programming=1e-2)),
    "drift 0.001, read noise 2 %": Condition(lambda d: Noisy(Drifting(d, per_programming=1e-3), read=0.02)),
    "drift 0.01, read noise 2 %": Condition(lambda d: Noisy(Drifting(d, per_programming=1e-2), read=0.02)),
    "rounded to 1/64": Condition(lambda d: Camera(d, step=1 / 16)),
    "rounded to 1/64, read noise 2 %": Condition(lambda d: Camera(Noisy(d, read=0.02), step=1 / 16)),
    "dark level": Condition(lambda d: Camera(d, dark=3.0), linear=False),
    "dark level, rounded to 1/256, read noise 2 %": Condition(
        lambda d: Camera(Noisy(d, read=0.02), dark=3.0, step=1 / 64), linear=False
    ),
    "clipped": Condition(lambda d: Camera(d, full=0.2), linear=False, sound=False),
}


def wrong(inner: bp.Device, found: Characterisation, condition: Condition) -> list[str]:
    """The claims that are not so."""
    spec, said = found.declaration, []
    if spec.linear and not (inner.linear and condition.linear):
        said.append("linear")
    true = {Coupling.NONE, Coupling.ROW} if inner.coupling is Coupling.ELEMENT else {Coupling.NONE}
    if spec.coupling not in (true | {inner.coupling}):
        said.append(f"coupling {spec.coupling.value}")
    period, own = spec.theta.period, inner.theta.period
    if period is not None and (own is None or abs(period / own - 1) > 1e-3):
        said.append(f"period {period:.4g}")
    # A signal that is lost in the steps of the rounding is told as that.
    if condition.sound and found.diagnoses and not found.diagnoses[0].startswith("rounded more coarsely"):
        said.append(f"fault: {found.diagnoses[0]}")
    return said


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--conditions", nargs="*", default=list(CONDITIONS), choices=list(CONDITIONS))
    given = parser.parse_args()
    trials, failed, linear, coupled = Counter(), Counter(), Counter(), Counter()
    begun = time.time()
    for seed in range(given.first_seed, given.first_seed + given.seeds):
        for name in given.conditions:
            for make in DEVICES:
                inner, condition = make(), CONDITIONS[name]
                order = torch.randperm(inner.theta.size, generator=torch.Generator().manual_seed(seed))
                generator = torch.Generator().manual_seed(seed)
                found = bp.characterise(condition.wrap(Declared(inner, order=order)), generator=generator)
                trials[name] += 1
                linear[name] += found.declaration.linear == (inner.linear and condition.linear)
                coupled[name] += found.declaration.coupling is inner.coupling
                if said := wrong(inner, found, condition):
                    failed[name] += 1
                    print(f"wrong: {name}, seed {seed}, {inner}: {'; '.join(said)}", flush=True)
        print(
            f"seed {seed}: {sum(trials.values())} trials, {sum(failed.values())} wrong, {time.time() - begun:.0f} s",
            flush=True,
        )
    print(f"{'condition':48}{'trials':>8}{'wrong':>8}{'linear found':>14}{'coupling found':>16}")
    for name, count in trials.items():
        print(f"{name:48}{count:>8}{failed[name]:>8}{linear[name]:>14}{coupled[name]:>16}")


if __name__ == "__main__":
    main()
