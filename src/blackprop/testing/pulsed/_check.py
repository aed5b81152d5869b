"""Whether a device that declares pulses moves as it declares."""

from __future__ import annotations

import torch
from torch import Tensor

from blackprop.core._declaration import Declaration
from blackprop.core._probes import within
from blackprop.core._procedure import ask
from blackprop.core._query import Purpose, Query
from blackprop.core.capabilities._pulse import Pulse
from blackprop.core.capabilities._read_back import ReadBack
from blackprop.devices import Device
from blackprop.errors import ArgumentError
from blackprop.testing._bench import Bench, Report, generator_or_default, normal, relative

FACTOR = 3.0  # between the declared and the measured mean step, in either direction: steps differ over the range
PATIENCE = 64  # times as many repetitions at most
KNOWN = 0.25  # of the expected change: the standard error of a mean that is compared with it
ALIGNED = 0.5  # least cosine between the mean change and the outer product of the trains


class PulsedCase:
    """The tiles of a device, read and moved one by one."""

    def __init__(self, device: Device, pulses: int, generator: torch.Generator) -> None:
        self.device, self.spec, self.generator = device, device.declaration, generator
        self.pulse, self.pulses = self.spec.capability(Pulse), pulses
        self.bench = Bench(self.spec.name)
        self.settings = torch.eye(self.spec.theta.size)
        eye = torch.eye(self.spec.d_in)
        if self.spec.x_limited and not torch.equal(within(self.spec, eye), eye):
            raise ArgumentError("`check_pulsed` reads unit rows, which are outside the limits of the inputs")
        self.unit = eye

    def matrix(self, tile: int, claim: str) -> Tensor:
        """W of a tile (d_out, d_in), from unit rows."""
        query = Query(self.unit.unflatten(1, self.spec.in_shape), self.settings[tile], Purpose.CALIBRATE)
        (y,) = self.bench.run(claim, ask(query), self.device)
        return y.flatten(1).mT

    def send(self, trains: Tensor, tile: int, claim: str) -> None:
        query = Query(trains, self.settings[tile], Purpose.CALIBRATE, Pulse)
        self.bench.run(claim, ask(query), self.device)

    def change(self, trains: Tensor, tile: int, claim: str) -> Tensor:
        before = self.matrix(tile, claim)
        self.send(trains, tile, claim)
        return self.matrix(tile, claim) - before

    def lines(self, sign: float) -> Tensor:
        """Trains of one slot in which every line fires."""
        x = torch.ones(self.pulses, self.spec.d_in)
        return self.pulse.single(x, sign * torch.ones(self.pulses, self.spec.d_out))


def check_pulsed(device: Device, *, pulses: int = 16, generator: torch.Generator | None = None) -> Report:
    """Measure whether `device` fulfils its declaration of `Pulse`. It moves the cells: use a device that may change.

    Checks, for each tile, that reading moves no cell, that trains are counted by their slots, that cells rise and fall
    by about the declared step, that lines at rest move no cell, that the mean change follows the outer product of the
    vectors, that the other tiles stay, and that a saved state gives the same readings and the same next pulses. If the
    device declares `ReadBack`, both directions must read the same matrix after pulses, too.

    **Arguments:**

    - `device`: the device; unit rows must be within the limits of its inputs.
    - `pulses` (default 16): pulses of one measurement. They should move a cell by more than the noise of a reading, and
      by less than its range.
    - `generator` (default: seed 0).

    **Raises** `ContractError` for the first claim that does not hold, `IncompatibleError` for a device without pulses.

    >>> import blackprop as bp
    >>> report = bp.testing.check_pulsed(bp.devices.PulsedCrossbar(4, 3))
    >>> report.claims[0]
    ('a reading moves no cell', 'within 0 of the step')
    """
    if pulses < 1:
        raise ArgumentError(f"`check_pulsed(pulses=...)` must be at least 1, got {pulses}")
    case = PulsedCase(device, pulses, generator_or_default(generator))
    _reading_rests(case)
    _counted(case)
    for tile in range(len(case.settings)):
        _rises_and_falls(case, tile)
        _rests(case, tile)
        _outer_product(case, tile)
    _tiles_apart(case)
    _both_ways(case, case.spec)
    _restored(case)
    return case.bench.report()


def _reading_rests(case: PulsedCase) -> None:
    claim = "a reading moves no cell"
    before = case.matrix(0, claim)
    apart = float((case.matrix(0, claim) - before).abs().mean()) / case.pulse.granularity
    case.bench.settle(apart < case.pulses / FACTOR, claim, f"within {apart:.2g} of the step", "no change")


def _counted(case: PulsedCase) -> None:
    claim = "trains are counted by their slots"
    before = case.bench.ledger.actions["pulse"]
    case.send(case.pulse.trains(torch.ones(2, case.spec.d_in), torch.zeros(2, case.spec.d_out)), 0, claim)
    zero = case.bench.ledger.actions["pulse"] - before
    case.send(case.lines(0.0), 0, claim)
    slots = case.bench.ledger.actions["pulse"] - before - zero
    wanted = f"0 for a vector of zeros, {case.pulses} for as many slots"
    case.bench.settle(zero == 0 and slots == case.pulses, claim, f"{zero} and {slots}", wanted)


def _rises_and_falls(case: PulsedCase, tile: int) -> None:
    """Steps down and up in turn, until the mean of each is known to a part of the declared step."""
    step, claim = case.pulse.granularity, f"tile {tile} moves up and down"
    case.send(case.lines(-1.0), tile, claim)  # to leave a bound
    seen: dict[float, list[float]] = {1.0: [], -1.0: []}
    for pair in range(1, PATIENCE + 1):
        for sign, means in seen.items():
            means.append(sign * float(case.change(case.lines(sign), tile, claim).mean()) / case.pulses)
        errors = [torch.tensor(means).std(correction=0) / pair**0.5 for means in seen.values()]
        if pair > 2 and max(map(float, errors)) < KNOWN * step:
            break
    up, down = (sum(means) / len(means) for means in seen.values())
    holds = all(step / FACTOR <= mean <= step * FACTOR for mean in (up, down))
    case.bench.settle(holds, claim, f"{up:.3g} and {down:.3g} a pulse", f"about {step:.3g} a pulse")


def _rests(case: PulsedCase, tile: int) -> None:
    claim = f"lines of tile {tile} that rest move no cell"
    trains = case.lines(1.0)
    trains[:, 1 : case.spec.d_in] = 0
    change = case.change(trains, tile, claim).abs().mean(0)
    moved, rest = float(change[0]), float(change[1:].max()) if len(change) > 1 else 0.0
    case.bench.settle(rest < moved / FACTOR, claim, f"{rest:.2g}, and {moved:.2g} where they fire", "no change")


def _outer_product(case: PulsedCase, tile: int) -> None:
    claim = f"tile {tile} moves by the outer product"
    x, d = normal((1, case.spec.d_in), case.generator), normal((1, case.spec.d_out), case.generator)
    x, d = x / x.abs().max(), d / d.abs().max()
    size = case.pulse.granularity * min(case.pulses, case.pulse.longest)
    wanted, total = size * (d.mT @ x), torch.zeros(())
    squares, mean = torch.zeros(()), total
    for pair in range(1, PATIENCE * case.pulses + 1):
        changes = [case.change(case.pulse.trains(x, sign * size * d), tile, claim) for sign in (1.0, -1.0)]
        half = (changes[0] - changes[1]) / 2
        total, squares = total + half, squares + half.square()
        mean = total / pair
        doubt = ((squares / pair - mean.square()).clamp_min(0) / pair).mean().sqrt()
        if pair >= case.pulses and float(doubt) < KNOWN * float(wanted.square().mean().sqrt()):
            break
    cosine = float((mean * wanted).sum() / (mean.norm() * wanted.norm()).clamp_min(1e-30))
    length = float((mean * wanted).sum() / wanted.square().sum())
    holds = cosine >= ALIGNED and 1 / FACTOR <= length <= FACTOR
    case.bench.settle(
        holds, claim, f"cosine {cosine:.3f}, length {length:.2f}", f"cosine above {ALIGNED}, length near 1"
    )


def _tiles_apart(case: PulsedCase) -> None:
    if len(case.settings) < 2:
        return
    claim = "pulses to one tile leave the others"
    before = case.matrix(1, claim)
    moved = float(case.change(case.lines(1.0), 0, claim).abs().mean())
    apart = float((case.matrix(1, claim) - before).abs().mean())
    case.bench.settle(apart < moved / FACTOR, claim, f"{apart:.2g} beside {moved:.2g}", "no change")


def _both_ways(case: PulsedCase, spec: Declaration) -> None:
    if not spec.has(ReadBack):
        return
    claim, tile = "both directions read the same matrix", len(case.settings) - 1
    query = Query(torch.eye(spec.d_out).unflatten(1, spec.out_shape), case.settings[tile], Purpose.CALIBRATE, ReadBack)
    (z,) = case.bench.run(claim, ask(query), case.device)
    ahead = case.matrix(tile, claim)
    apart = relative(z.flatten(1) - ahead, ahead)
    case.bench.settle(apart < 1 / FACTOR, claim, f"{apart:.2g} apart", "equal within the noise of a reading")


def _restored(case: PulsedCase) -> None:
    claim = "a saved state continues"
    state = case.device.state_dict()
    if not state:
        case.bench.note(claim, "it saves no state")
        return
    readings = []
    for _ in range(2):
        first = case.matrix(0, claim)
        case.send(case.lines(1.0), 0, claim)
        readings.append((first, case.matrix(0, claim)))
        case.device.load_state_dict(state)
        case.device.forget()
    same = all(torch.equal(a, b) for a, b in zip(*readings, strict=True))
    case.bench.settle(same, claim, "bit for bit" if same else "other readings", "the same readings and the same pulses")
