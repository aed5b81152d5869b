"""Ask a device which family it belongs to, from a few settings, before anything is believed of it."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from blackprop.core._declaration import Declaration
from blackprop.core._ledger import Ledger
from blackprop.core._probes import Probes, spanning, spanning_count
from blackprop.core._procedure import Procedure, ask, in_rounds
from blackprop.core._query import Purpose, Query
from blackprop.errors import BudgetExhausted
from blackprop.planning._codes import decode, draw_codes, settings_needed
from blackprop.planning._correlation import PROGRAMMINGS, correlation_length
from blackprop.planning._finding import Family, InquiryResult
from blackprop.surrogates.calibration._calibration import orthogonal

PART = 0.25  # of an allowance that an inquiry may use
ROWS = 7  # that tell linear from quadratic
EXACT = 1e-3  # relative, of sums and changes that must agree where readings are without noise
NOISES = 4.0  # standard deviations by which sums may disagree
CALM = 1.3  # of the noise: root mean square of changes where nothing changes
LEAK = 0.05  # of the change of an element; a family is sure where as much in another element would be seen
EARLY = 5  # codes after which elements that are no elements are given up
NAMED = 0.97  # of the elements, whose parameter must be found
LENGTH_ROWS = 32


def inquire(
    spec: Declaration,
    theta: Tensor,
    amplitude: float,
    generator: torch.Generator,
    programmings: float = math.inf,
    rows: float = math.inf,
) -> Procedure[InquiryResult]:
    """Find the family of a device from readings around `theta` (P,), within so many `programmings` and `rows`.

    Linear or quadratic in x: 7 rows, read twice. A matrix: read at θ, with half of the elements of half of the outputs
    moved, and at θ again, which measures the noise, that of programming included; 3 programmings tell elements and
    rows. Where there are as many parameters as elements and each moves its own, hidden wiring is found by codes, in
    2 log₂ P + 3 programmings more; given up after 5 where elements do not take two values. Of any other matrix, the
    correlation length of its derivatives. A phase mask is told by `f(2x) = 4 f(x)` and one parameter for each input;
    `surrogates.PhaseMask` then accepts or refutes it.

    `amplitude` is the root mean square of the inputs that training sends. All queries are `CALIBRATE`.
    """
    if len(spec.in_shape) != 1 or len(spec.out_shape) != 1:
        return InquiryResult(Family.OTHER, "rows and outputs that are not vectors are not asked about", sure=False)
    asking = _Asking(spec, theta, amplitude, generator)
    try:
        return (yield from asking.run(programmings, rows))
    except BudgetExhausted:
        return InquiryResult(Family.OTHER, "the budget ended the inquiry", sure=False, noise=asking.noise)


def most(spec: Declaration) -> Ledger:
    """The most that `inquire` asks of such a device, beside the readings of a `PhaseMask`."""
    count, P = spanning_count(spec), spec.theta.size
    found = Ledger()
    codes = settings_needed(P) if spec.d_in * spec.d_out == P else 0
    length = 2 * LENGTH_ROWS * PROGRAMMINGS
    found.programmings[Purpose.CALIBRATE] = 3 + max(codes, EARLY * bool(codes) + PROGRAMMINGS)
    found.rows[Purpose.CALIBRATE] = 2 * ROWS + 3 * count + max(codes * count, EARLY * bool(codes) * count + length)
    return found


class _Asking:
    """The readings of one inquiry."""

    def __init__(self, spec: Declaration, theta: Tensor, amplitude: float, generator: torch.Generator) -> None:
        self.spec, self.theta, self.amplitude, self.generator = spec, theta, amplitude, generator
        self.noise = self.spread = 0.0
        unit = orthogonal(spec.d_in, theta, generator) * math.sqrt(spec.d_in) * amplitude
        self.probes: Probes = spanning(spec, unit, spec.d_in * amplitude**2, amplitude)
        self.far = theta + self._reach()

    def run(self, programmings: float, rows: float) -> Procedure[InquiryResult]:
        if programmings < 3 or rows < 2 * ROWS + 3 * len(self.probes.rows):
            return InquiryResult(Family.OTHER, "the allowance is too small to ask", sure=False)
        power = yield from self._power()
        if power != 1:
            quadratic = power == 2 and self.spec.theta.size == self.spec.d_in
            why = {1: "", 2: "f(2x) = 4 f(x)", 0: "neither linear nor quadratic in x"}[power]
            return InquiryResult(Family.MASK if quadratic else Family.OTHER, why, noise=self.noise)
        found = yield from self._matrix(programmings, rows)
        if found.family is Family.LINEAR and programmings >= 3 + EARLY + PROGRAMMINGS:
            length = yield from correlation_length(self.spec, self.theta, self._some_rows(), self.generator)
            return InquiryResult(found.family, found.why, found.sure, self.noise, length=length)
        return found

    def _power(self) -> Procedure[int]:
        """1 where the device is linear in x, 2 where it is quadratic, else 0; measures the noise of readings."""
        x, even = self._sums()
        (y, again) = yield from ask(*(Query(x, self.theta, Purpose.CALIBRATE) for _ in range(2)))
        mean = (y + again) / 2
        spread, size = _rms(y - again) / math.sqrt(2), _rms(mean) or 1.0
        dark, a, b, both, twice, half, minus = mean
        self.spread, self.noise = spread, spread / (_rms(torch.stack((a, b))) or 1.0)
        allowed = max(EXACT * size, NOISES * spread)
        if _rms(dark) <= allowed:
            wrong = [both - a - b, twice - 2 * a, half - a / 2, *([minus + a] if even else [])]
            if all(_rms(each) <= allowed for each in wrong):
                return 1
        a, both, twice, half, minus = (each - dark for each in (a, both, twice, half, minus))
        # Twice the drive has four times the reading: errors are compared with it.
        wrong = [(twice - 4 * a) / 3, half - a / 4, *([minus - a] if even else [])]
        return 2 if all(_rms(each) <= 1.5 * allowed for each in wrong) and _rms(a) > allowed else 0

    def _sums(self) -> tuple[Tensor, bool]:
        """Rows 0, a, b, a + b, 2a, a/2 and −a, or 0 again where that is not within the limits; and whether it is."""
        low, high = self.spec.x_range
        drawn = torch.rand(2, self.spec.d_in, generator=self.generator, device=self.generator.device).to(self.theta)
        room = max(0.0, min(high, 2 * math.sqrt(3) * self.amplitude))  # twice rows as large as those of training
        even = low <= -room
        a, b = (room / 2 * (2 * drawn - 1 if even else drawn)).unbind()
        return torch.stack((0 * a, a, b, a + b, 2 * a, a / 2, -a if even else 0 * a)).clamp(low, high), even

    def _matrix(self, programmings: float, rows: float) -> Procedure[InquiryResult]:
        spec, P, d_out = self.spec, self.spec.theta.size, self.spec.d_out
        block = P // d_out if P % d_out == 0 else 0
        half = torch.rand(P, generator=self.generator, device=self.generator.device).to(self.theta) < 0.5
        outputs = torch.zeros(d_out, dtype=torch.bool, device=self.theta.device)
        outputs[torch.randperm(d_out, generator=self.generator, device=self.generator.device)[: -(-d_out // 2)]] = True
        move = half & outputs.repeat_interleave(block) if block else half
        base, moved, again = yield from self._read([self.theta, torch.where(move, self.far, self.theta), self.theta])
        change, repeated = moved - base, again - base
        floor = _rms(repeated)
        # Two rows may be read as little; rows of training are read as the whole matrix says.
        self.noise = self.spread / (self.amplitude * float(base.norm()) / math.sqrt(d_out) or 1.0)
        here = change[outputs] if block else change
        size = _rms(here)
        if not size > 2 * floor:
            return InquiryResult(Family.LINEAR, "its changes drown in its noise", sure=False, noise=self.noise)
        sure = CALM * floor + EXACT * size < LEAK * size / 2
        if block and d_out > 1 and _still(change[~outputs], repeated, size):
            still = change[~move.view(d_out, -1)] if spec.d_in * d_out == P else change[outputs]
            if spec.d_in * d_out == P and _still(still, repeated, size):
                return self._found(Family.ELEMENT, "elements whose parameters stay do not change", sure)
            return self._found(Family.ROW, "outputs whose parameters stay do not change", sure)
        needed = settings_needed(P)
        if spec.d_in * d_out == P and programmings >= 3 + needed and rows >= (3 + needed) * len(self.probes.rows):
            return (yield from self._wiring(base, floor, size))
        return self._found(Family.LINEAR, "parameters move outputs other than those of their place")

    def _wiring(self, base: Tensor, floor: float, size: float) -> Procedure[InquiryResult]:
        """Each element takes two values as its parameter says, and nothing else: found by codes."""
        P = self.theta.numel()
        codes = draw_codes(P, settings_needed(P), self.generator).to(self.theta.device)
        settings = [torch.where(code, self.far, self.theta) for code in codes]
        other = self._found(Family.LINEAR, "elements take more than two values")
        first = yield from self._read(settings[:EARLY])
        readings = torch.stack([base, *first]).flatten(1)
        if not _two_valued(readings, floor, size):
            return other
        readings = torch.cat((readings, torch.stack((yield from self._read(settings[EARLY:]))).flatten(1)))
        if not _two_valued(readings, floor, size):
            return other
        found = decode(readings, codes, torch.arange(P, device=codes.device))
        order, named = _permutation(found.owner, found.explained)
        if named < NAMED:
            return self._found(Family.LINEAR, f"{named:.0%} of the elements have a parameter of their own")
        return self._found(
            Family.ELEMENT, f"hidden wiring, {named:.1%} of the elements named", floor < LEAK * size, order
        )

    def _read(self, settings: list[Tensor]) -> Procedure[list[Tensor]]:
        """The matrices (d_out, d_in) at these settings."""
        queries = [Query(self.probes.rows, setting, Purpose.CALIBRATE) for setting in settings]
        return [self.probes.matrix(y) for y in (yield from in_rounds(queries, self.spec.d_out))]

    def _found(self, family: Family, why: str, sure: bool = True, order: Tensor | None = None) -> InquiryResult:
        return InquiryResult(family, why, sure, self.noise, order)

    def _some_rows(self) -> Tensor:
        drawn = torch.randn(LENGTH_ROWS, self.spec.d_in, generator=self.generator, device=self.generator.device)
        return self.amplitude * drawn.to(self.theta)

    def _reach(self) -> Tensor:
        """How far parameters are moved: a quarter of a period, or of the range towards its farther end."""
        spec, theta = self.spec.theta, self.theta
        if spec.period is not None and not spec.limited:
            return torch.full_like(theta, spec.period / 4)
        low, high = spec.range_around(theta)
        width = (high - low) / 4
        return torch.where(high - theta >= theta - low, width, -width)


def _still(change: Tensor, repeated: Tensor, size: float) -> bool:
    """Whether a change is that of a repetition, all in all and in every element: leaks may be few."""
    floor, least = _rms(repeated), EXACT * size
    most = max(floor * (math.sqrt(2 * math.log(max(2, change.numel()))) + 2), 1.5 * float(repeated.abs().max()))
    return _rms(change) <= CALM * floor + least and float(change.abs().max()) <= most + 5 * least


def _two_valued(readings: Tensor, floor: float, size: float) -> bool:
    """Whether cells (1 + S, cells) take two values each, but for the noise."""
    low, high = readings.amin(0), readings.amax(0)
    above = readings > (low + high) / 2
    count = above.sum(0)
    high = (readings * above).sum(0) / count.clamp_min(1)
    low = (readings * ~above).sum(0) / (len(readings) - count).clamp_min(1)
    return _rms(readings - torch.where(above, high, low)) <= CALM * floor / math.sqrt(2) + 2 * EXACT * size


def _permutation(owner: Tensor, explained: Tensor) -> tuple[Tensor, float]:
    """A parameter for each element, each parameter once: the named ones by how much they explain, then what is left."""
    chosen = torch.full_like(owner, -1)
    taken: set[int] = set()
    for element in explained.argsort(descending=True).tolist():
        parameter = int(owner[element])
        if parameter >= 0 and parameter not in taken:
            taken.add(parameter)
            chosen[element] = parameter
    named = len(taken) / len(owner)
    left = [p for p in range(len(owner)) if p not in taken]
    chosen[chosen < 0] = torch.tensor(left, dtype=chosen.dtype, device=chosen.device)
    return chosen, named


def _rms(values: Tensor) -> float:
    return float(values.square().mean().sqrt()) if values.numel() else 0.0
