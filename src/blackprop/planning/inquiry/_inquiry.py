"""Ask a device which family it belongs to, from a few settings, and check the answer on settings of its own."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from blackprop.core._declaration import Declaration
from blackprop.core._probes import Probes, spanning, within
from blackprop.core._procedure import Procedure, ask, in_rounds
from blackprop.core._query import Purpose, Query
from blackprop.errors import BudgetExhausted
from blackprop.planning.inquiry._bounds import Predicted, factor, is_noise, rms
from blackprop.planning.inquiry._correlation import PROGRAMMINGS, correlation_length
from blackprop.planning.inquiry._cost import (
    LENGTH_ROWS,
    READ,
    SETTING_ROWS,
    copies_of,
    has_rows,
    least,
    rows_each,
    zeros_of,
)
from blackprop.planning.inquiry._designs import recognised
from blackprop.planning.inquiry._finding import Family, InquiryResult
from blackprop.planning.inquiry._noise import noise_alone
from blackprop.planning.inquiry._sums import BENT, COPIES, Sums
from blackprop.planning.inquiry._wiring import EARLY, FRESH, HiddenWiring, codes_needed
from blackprop.surrogates.calibration._calibration import orthogonal

PART = 0.25  # of an allowance that an inquiry may use
TOLERATED = 0.02  # of the changes: root mean square of leaks that spoil no gradient
LEAK = 0.05  # of the changes; a family is sure where leaks as large would be seen
DECLARED_ROWS = "row coupling is declared"


def inquire(
    spec: Declaration,
    theta: Tensor,
    amplitude: float,
    generator: torch.Generator,
    programmings: float = math.inf,
    rows: float = math.inf,
) -> Procedure[InquiryResult]:
    """Find the family of a device from readings around `theta` (P,), within so many `programmings` and `rows`.

    - Linear or quadratic in x: 7 rows or more, read 4 times. A dark level is subtracted. A device that is declared
      linear is taken as linear.
    - A matrix whose readings of the row 0 move with the parameters is taken as a device that is not linear.
    - Elements or rows of a matrix: it is read at θ, with half of the elements of half of the outputs moved, with half
      of those of the other outputs moved, and at θ again, which shows the noise, that of programming included. Two
      further settings check the answer: the readings of these four predict them.
    - A hidden wiring, where there are as many parameters as elements: codes, about `2 log₂ P + 1` programmings, and two
      to check. The search ends after 3 codes where elements do not take two values.
    - The design of a mesh that has as many phases: at most 3 programmings for each, which move a part of its first, of
      its last and of its second column. Inputs and outputs that these do not reach must not change.
    - Any other matrix: the correlation length of its derivatives.
    - A device that is not linear: whether each output answers to a block of parameters alone, in the same way.
    - Of a device whose rows or outputs are not vectors: the noise alone, from 8 rows that are read twice.
    - A phase mask: `f(2x) = 4 f(x)`, and one parameter for each input. `surrogates.PhaseMask` has to confirm it. With
      another number of parameters, a matrix of fields that is read as power, which `surrogates.PowerMatrix` confirms.

    **Arguments:** `amplitude`, the root mean square of the inputs in training. All queries are `CALIBRATE`.
    """
    if not spec.of_vectors:
        return (yield from noise_alone(spec, theta, amplitude, generator, programmings, rows))
    asking = _Asking(spec, theta, amplitude, generator)
    try:
        return (yield from asking.run(programmings, rows))
    except BudgetExhausted:
        return InquiryResult(Family.OTHER, "the budget ended the inquiry", sure=False, noise=asking.noise)


class _Asking:
    """The readings of one inquiry."""

    def __init__(self, spec: Declaration, theta: Tensor, amplitude: float, generator: torch.Generator) -> None:
        self.spec, self.theta, self.amplitude, self.generator = spec, theta, amplitude, generator
        self.noise = 0.0
        unit = orthogonal(spec.d_in, theta, generator) * math.sqrt(spec.d_in) * amplitude
        self.probes: Probes = spanning(spec, unit, spec.d_in * amplitude**2, amplitude)
        self.far = theta + self._reach()
        self.copies = copies_of(spec)
        self.dark: Tensor | None = None
        self.zeros, self.darks = zeros_of(spec), list[Tensor]()
        self.spread = self.outputs = 0.0  # the standard deviation of a reading, and the size of those of training
        self.sure = True
        self.refuted: Predicted | None = None
        self.known: Predicted | None = None  # the matrix at θ, and its noise

    def run(self, programmings: float, rows: float) -> Procedure[InquiryResult]:
        wanted = least(self.spec)
        if programmings < wanted[0] or rows < wanted[1]:
            why = f"the allowance is too small to ask: {wanted[0]} programmings and {wanted[1]:,} rows are needed"
            return InquiryResult(Family.OTHER, why, sure=False)
        sums = Sums.drawn(self.spec, self.amplitude, self.generator, self.theta)
        sums.take((yield from ask(*(Query(sums.rows, self.theta, Purpose.CALIBRATE) for _ in range(COPIES)))))
        self.noise, self.dark, self.sure = sums.noise, sums.dark, sums.sure or self.spec.linear
        self.spread = sums.spread
        power = 1 if self.spec.linear else sums.power
        if power != 1:
            return (yield from self._not_linear(power))
        found = yield from self._unless_moved((yield from self._matrix(programmings, rows)))
        if not self._steady():
            why = "its readings without input move with its parameters"
            return replace(found, sure=False, why=why) if self.spec.linear else (yield from self._not_matrix(why))
        if found.family is Family.LINEAR and self.known is not None:
            sketch = yield from recognised(self.spec, self.theta, self.far, self.known, self._read, self.generator)
            if sketch is not None:
                known = {"why": sketch.why, "order": sketch.order, "drawing": sketch.chip}
                found = replace(found, family=Family.MESH, sure=False, **known)
        if found.family is Family.LINEAR and programmings >= READ + FRESH + EARLY + PROGRAMMINGS:
            length = yield from correlation_length(self.spec, self.theta, self._some_rows(), self.generator)
            return replace(found, length=length)
        return found

    def _not_linear(self, power: int) -> Procedure[InquiryResult]:
        why = "f(2x) = 4 f(x)" if power == 2 else "neither linear nor quadratic in x"
        if power == 2 and self.spec.theta.size == self.spec.d_in and not has_rows(self.spec):
            return InquiryResult(Family.MASK, why, sure=False, noise=self.noise)
        found = yield from self._not_matrix(why)
        quadratic = found.family is Family.OTHER and power == 2
        return replace(found, family=Family.POWER, sure=False) if quadratic else found

    def _not_matrix(self, why: str) -> Procedure[InquiryResult]:
        if has_rows(self.spec):
            return InquiryResult(Family.BLOCKS, f"{why}; {DECLARED_ROWS}", self.sure, self.noise)
        return (yield from self._unless_moved((yield from self._blocks(why))))

    def _blocks(self, why: str) -> Procedure[InquiryResult]:
        """Whether each output of a device that is not a matrix answers to its block of parameters alone, on random
        rows.
        """
        spec, count = self.spec, min(SETTING_ROWS, rows_each(self.spec))
        other = InquiryResult(Family.OTHER, why, noise=self.noise)
        if spec.theta.size % spec.d_out or spec.d_out == 1:
            return other
        drawn = torch.randn(count, spec.d_in, generator=self.generator, device=self.generator.device)
        self.probes, self.copies, self.dark = Probes(within(spec, self.amplitude * drawn.to(self.theta))), 1, None
        moves, outputs = self._moves(spec.theta.size // spec.d_out)
        settings = [self.theta, *(torch.where(move, self.far, self.theta) for move in moves), self.theta]
        base, *moved, again = yield from self._read(settings)
        size = math.sqrt((rms((moved[0] - base)[outputs]) ** 2 + rms((moved[1] - base)[~outputs]) ** 2) / 2)
        repeated, tolerance = again - base, TOLERATED * size
        if not size > 2 * rms(repeated):
            return replace(other, sure=False)
        found = yield from self._by_rows(moves, outputs, base, moved, repeated, tolerance)
        return replace(other, family=Family.BLOCKS) if found else other

    def _matrix(self, programmings: float, rows: float) -> Procedure[InquiryResult]:
        spec, P, d_out = self.spec, self.spec.theta.size, self.spec.d_out
        block = P // d_out if P % d_out == 0 else 0
        moves, outputs = self._moves(block)
        settings = [self.theta, *(torch.where(move, self.far, self.theta) for move in moves), self.theta]
        base, *moved, again = yield from self._read(settings)
        changes, repeated = [each - base for each in moved], again - base
        noise = rms(repeated)
        # Two rows may be read as little; rows of training are read as the whole matrix says.
        self.outputs = self.amplitude * float(base.norm()) / math.sqrt(d_out)
        self.noise = self.spread / (self.outputs or 1.0)
        of_outputs = [changes[0][outputs], changes[1][~outputs]] if block and d_out > 1 else changes
        size = math.sqrt(sum(rms(each) ** 2 for each in of_outputs) / 2)
        rowed = Family.ROW if has_rows(spec) else Family.LINEAR
        if not size > 2 * noise:
            return self._found(rowed, "its changes drown in its noise", sure=False)
        tolerance = TOLERATED * size
        sure = factor(repeated.numel(), repeated.numel()) * noise + tolerance < LEAK * size
        self.known = Predicted(base, base, repeated, tolerance)

        still = [~move.view(d_out, -1) for move in moves] if spec.d_in * d_out == P else []
        elements = bool(still)
        if elements and all(is_noise(*pair, repeated, tolerance) for pair in zip(changes, still, strict=True)):
            far = torch.where(outputs[:, None], *moved) if d_out > 1 else moved[0]
            all_moves = ~still[0] | ~still[1]
            choices = [all_moves & self._coins(P).view(d_out, -1) for _ in range(FRESH)]
            if (yield from self._checks(Predicted(base, far, repeated, tolerance), choices, choices)):
                return self._found(Family.ELEMENT, "elements whose parameters stay do not change", sure)
        declared, kept = rowed is Family.ROW, False
        if not declared and block and d_out > 1:
            kept = yield from self._by_rows(moves, outputs, base, moved, repeated, tolerance)
        if declared or kept:
            at_all = "elements whose parameters stay change" if elements else "linear in x"
            why = f"{at_all}; {DECLARED_ROWS}" if declared else "outputs whose parameters stay do not change"
            return self._found(Family.ROW, why, sure)
        needed = READ + codes_needed(P) + FRESH
        if elements and programmings >= needed and rows >= (needed + FRESH) * rows_each(spec):
            return (yield from self._wired(moves, [base, *moved], repeated, tolerance, sure))
        return self._found(Family.LINEAR, "parameters move outputs other than those of their place")

    def _wired(
        self, moves: list[Tensor], known: list[Tensor], repeated: Tensor, tolerance: float, sure: bool
    ) -> Procedure[InquiryResult]:
        """Whether elements have a hidden wiring; `known` are the matrices at θ and with each of `moves` moved."""
        wiring = HiddenWiring(self.theta, self.far, moves, self.generator)
        found = yield from wiring.find(self._read, known, repeated, tolerance)
        if found.order is not None:
            return self._found(Family.ELEMENT, found.why, sure, found.order)
        self.refuted = Predicted(known[0], known[0], repeated, tolerance)
        return self._found(Family.LINEAR, found.why, found.sure)

    def _by_rows(
        self,
        moves: list[Tensor],
        outputs: Tensor,
        base: Tensor,
        moved: list[Tensor],
        repeated: Tensor,
        tolerance: float,
    ) -> Procedure[bool]:
        """Whether outputs (d_out,) whose blocks stay do not change, and fresh settings show the same."""
        whole = outputs[:, None].expand_as(base)
        for change, cells in zip([each - base for each in moved], (~whole, whole), strict=True):
            if not is_noise(change, cells, repeated, tolerance):
                return False
        blocks = (moves[0] | moves[1]).view(len(outputs), -1)
        chosen = [self._coins(len(outputs))[:, None] for _ in range(FRESH)]
        predicted = Predicted(base, torch.where(outputs[:, None], *moved), repeated, tolerance)
        cells = [each.expand_as(base) for each in chosen]
        return (yield from self._checks(predicted, [blocks & each for each in chosen], cells))

    def _moves(self, block: int) -> tuple[list[Tensor], Tensor]:
        """Two sets of parameters (P,), and the outputs (d_out,) to whose blocks the first belongs: half of each block's
        parameters. Without blocks, two random halves.
        """
        P, d_out = self.theta.numel(), self.spec.d_out
        outputs = torch.zeros(d_out, dtype=torch.bool, device=self.theta.device)
        outputs[torch.randperm(d_out, generator=self.generator, device=self.generator.device)[: -(-d_out // 2)]] = True
        if not block or d_out == 1:
            half = self._coins(P)
            return [half, ~half], outputs
        drawn = torch.rand(d_out, block, generator=self.generator, device=self.generator.device).to(self.theta)
        half = drawn.argsort(1).argsort(1) < -(-block // 2)
        return [(half & mask[:, None]).flatten() for mask in (outputs, ~outputs)], outputs

    def _checks(self, predicted: Predicted, choices: list[Tensor], cells: list[Tensor]) -> Procedure[bool]:
        """Move the parameters of each choice, and compare the matrices with the predicted ones: as they were read with
        these parameters moved at the `cells` (d_out, d_in), and unmoved elsewhere.
        """
        settings = [torch.where(choice.flatten(), self.far, self.theta) for choice in choices]
        found = yield from self._read(settings)
        holds = all(predicted.holds(matrix, each) for matrix, each in zip(found, cells, strict=True))
        self.refuted = self.refuted if holds else predicted
        return holds

    def _unless_moved(self, found: InquiryResult) -> Procedure[InquiryResult]:
        """The finding, not sure where the device moved while it was asked: its readings then fail to predict others.

        Where they did, θ is read once more.
        """
        if self.refuted is None:
            return found
        (again,) = yield from self._read([self.theta])
        if self.refuted.holds(again, torch.zeros_like(again, dtype=torch.bool)):
            return found
        return replace(found, why=f"{found.why}; the device moved while it was asked", sure=False)

    def _read(self, settings: list[Tensor]) -> Procedure[list[Tensor]]:
        """The matrices (d_out, d_in) at these settings. The row 0 is sent with the others, for `steady`."""
        rows = self.probes.rows.repeat(self.copies, 1)
        sent = torch.cat((rows, rows.new_zeros(self.zeros, rows.shape[1])))
        readings = yield from in_rounds([Query(sent, t, Purpose.CALIBRATE) for t in settings], self.spec.d_out)
        self.darks += [y[len(rows) :] for y in readings]
        means = [y[: len(rows)].unflatten(0, (self.copies, -1)).mean(0) for y in readings]
        return [self.probes.matrix(y if self.dark is None else y - self.dark) for y in means]

    def _steady(self) -> bool:
        """Whether the readings of the row 0 have been the same at all settings, but for the noise of a reading."""
        if not self.zeros:
            return True
        darks = torch.cat(self.darks)
        changes = rms(darks - darks.mean(0))
        return changes <= factor(darks.numel(), darks.numel()) * self.spread + BENT * self.outputs

    def _found(
        self, family: Family, why: str, sure: bool = True, order: Tensor | None = None, length: float | None = None
    ) -> InquiryResult:
        return InquiryResult(family, why, sure and self.sure, self.noise, order, length, self.dark)

    def _some_rows(self) -> Tensor:
        drawn = torch.randn(LENGTH_ROWS, self.spec.d_in, generator=self.generator, device=self.generator.device)
        return self.amplitude * drawn.to(self.theta)

    def _coins(self, count: int) -> Tensor:
        return torch.rand(count, generator=self.generator, device=self.generator.device).to(self.theta) < 0.5

    def _reach(self) -> Tensor:
        """How far parameters are moved: a quarter of a period, or of the range towards its farther end."""
        spec, theta = self.spec.theta, self.theta
        if spec.period is not None and not spec.limited:
            return torch.full_like(theta, spec.period / 4)
        low, high = spec.range_around(theta)
        width = (high - low) / 4
        return torch.where(high - theta >= theta - low, width, -width)
