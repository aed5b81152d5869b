"""The devices of the bench: as designed or as built, with their declaration or without."""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

import blackprop as bp
from blackprop import devices
from blackprop.devices import Declared, Noisy, Simulator

NOISE = 0.01  # relative, of every reading of a device as built


class Told(enum.Enum):
    """How much of its declaration a device keeps."""

    ALL = "declared"
    LINEAR = "linear alone"
    NOTHING = "nothing declared"


class Saturated(Simulator):
    """`y = tanh(3 A(θ) x)`: a light modulator whose detectors saturate. Not linear, and not quadratic."""

    def __init__(self, d_in: int, d_out: int) -> None:
        self.modulator = devices.LightModulator(d_in, d_out)
        cost = self.modulator.cost
        super().__init__(d_in, d_out, self.modulator.theta, coupling=bp.Coupling.ROW, cost=cost)

    def transfer(self, x: Tensor, theta: Tensor, /) -> Tensor:
        return (3 * self.modulator.transfer(x, theta)).tanh()


def _crossbar(d_in: int, d_out: int, *, built: bool, seed: int) -> bp.Device:
    """Of phase-change cells, which are noisy by themselves; as built, with stuck cells."""
    stuck = (0.01, 0.01) if built else (0.0, 0.0)
    array = devices.Crossbar(d_in, d_out, memristor=devices.PCM, stuck=stuck, seed=seed)
    return devices.Memristive(array, seed=seed, clock=lambda: 0.0)


@dataclass(frozen=True)
class Family:
    """One design: how it is made, whether it is linear, its noise as built, and whether a camera then reads it."""

    make: Callable[[int, int], Simulator] | None
    linear: bool = True
    noise: float = NOISE
    camera: bool = False

    def device(self, d_in: int, d_out: int, *, built: bool, seed: int) -> bp.Device:
        if self.make is None:
            return _crossbar(d_in, d_out, built=built, seed=seed)
        device = self.make(d_in, d_out)
        if not built:
            return device
        made = devices.as_built(device, seed=seed, camera=self.camera)
        return Noisy(made, read=self.noise, seed=seed + 1)


FAMILIES: dict[str, Family] = {
    "modulator": Family(devices.LightModulator),
    "ring bank": Family(devices.Microring),
    "crossbar": Family(None),
    "scattering medium": Family(devices.ScatteringMedium, linear=False, noise=0.02),
    "three-splitter mesh": Family(devices.ThreeSplitterMesh),
    "Mach-Zehnder mesh": Family(devices.MZIMesh),
    "Monarch": Family(devices.Monarch),
    "low rank": Family(lambda d_in, d_out: devices.LowRank(d_in, d_out, rank=min(10, d_in, d_out))),
    "modulator and camera": Family(devices.LightModulator, camera=True),
    "saturated modulator": Family(Saturated, linear=False),
    "mesh and camera": Family(devices.MZIMesh, linear=False, camera=True),
}


@dataclass(frozen=True)
class BuiltKind:
    """A kind of device for trials; `value` names it in results."""

    family: str
    built: bool
    told: Told

    @property
    def value(self) -> str:
        return f"{self.family}, {'as built' if self.built else 'as designed'}, {self.told.value}"

    @property
    def exists(self) -> bool:
        """Whether there is such a device: cameras come as built, and few devices are linear."""
        family = FAMILIES[self.family]
        return (self.built or not family.camera) and (family.linear or self.told is not Told.LINEAR)

    def make(self, d_in: int, d_out: int, seed: int = 0) -> bp.Device:
        device = FAMILIES[self.family].device(d_in, d_out, built=self.built, seed=seed)
        if self.told is Told.ALL:
            return device
        linear = self.told is Told.LINEAR
        device = Declared(device, linear=linear, period=device.theta.period)
        device.capabilities = ()
        return device
