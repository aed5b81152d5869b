"""The growth for detectors of power, of which each output is a quadratic form of the field."""

from __future__ import annotations

import math
from typing import final

import torch
from torch import Tensor

from blackprop.twins.chips.growth._growth import BACK, Growth, turned
from blackprop.twins.chips.growth._layers import Shifters
from blackprop.twins.chips.growth._programme import Setpoint, Walk
from blackprop.twins.chips.growth._quadratic import designed, forms, joint_fit, lifted, modelled, quadratic_fit
from blackprop.twins.chips.growth._start import begun, first_phases
from blackprop.twins.chips.growth._step import LayerStep
from blackprop.twins.chips.growth._window import Window

POOL = 40  # readings that a functional is fitted to, for each of its entries
ALTERNATIONS, STILL = 3, 1e-9  # of a layer's unknowns and the functionals; rad, a change that ends them
POOR = 8  # times the noise in a difference: a layer's offsets are wrong
EXACT = 1e-16  # of the readings' power: less is rounding

Flips = tuple[Tensor, Tensor, Tensor]  # rows, their readings with the first outer phases a quarter turn back, and on


@final
class PowerGrowth(Growth):
    """`y = Σ_c g_c |F_c u|² + d`: one F of sign 1 for a photodiode, two of opposite signs for a balanced pair.

    The difference between readings at a turn δ of a layer's shifters and at −δ is linear in their generators,
    `−4 sin δ Σ_c g_c Im[(F_c u)* F_c G u]`, for every δ.

    **Argument:** `signs` (c,); `flips`, where blocks have two splitters.

    **Attributes:** `gains` (outputs,), of the detectors, with all that the model leaves out; `dark` (outputs,).
    """

    def __init__(
        self,
        walk: Walk,
        base: Tensor,
        rows: Tensor,
        measured: list[tuple[Setpoint, Tensor]],
        signs: Tensor,
        flips: Flips | None,
    ) -> None:
        super().__init__(walk, base, rows, measured)
        self.first, self.signs, self._flips = walk.front, signs, flips
        outputs = self.readings.shape[-1]
        self.functionals = torch.zeros(outputs, len(signs), self.modes, dtype=torch.complex128)
        self.dark, self.gains = torch.zeros(outputs, dtype=torch.float64), torch.ones(outputs, dtype=torch.float64)

    def begin(self) -> None:
        steps, start = self.walk.steps[: self.first], self.field
        hypotheses, number = [self.offset], steps[0].shifters.number
        if self._flips is not None:
            rows, *readings = self._flips
            wide = torch.nn.functional.pad(rows, (0, self.modes - rows.shape[1]))
            phases = first_phases(steps[0], self.base[number], wide, *readings)
            hypotheses = [self.offset.index_copy(0, number, each) for each in phases]
        which, tried = self.pool(self.first), []
        for offset in hypotheses:
            self.field = start
            for step in steps:
                self.field = step.shifters.through(
                    step.through(self.field, step.gathered(offset, self.errors)), self.drives
                )
            tried.append((*lifted(*self.light(which)), offset, self.field))
        form, _, self.offset, self.field = min(tried, key=lambda each: each[1])
        field, y = self.light(which)
        self.functionals, self.dark = begun(form, self.signs, field, y)
        self.left.append(self._left(field, y))
        self.field = start
        for k, step in enumerate(steps):
            self.settle(k, step, step.gathered(self.offset, self.errors))
        self._jointly(self.first - 1, which)

    def solve(self, number: int, step: LayerStep) -> None:
        self.search(number, lambda: self._tried(number, step))
        self._solve(number, step)

    def _solve(self, number: int, step: LayerStep) -> None:
        pool = self._latest(self.pool(number))
        field, y = self.light(pool)
        noise = max(self.left[-1] ** 2, EXACT) * float(y.square().mean())
        unknowns, moved = None, math.inf
        stages, told, fields = self.stages(number, step), y, field
        for _ in range(ALTERNATIONS):
            gram, right, size, count = self._normal(number, step)
            if unknowns is None:
                trust = 1e-9 * float(gram.diagonal().mean()) + 8 * noise
                t = torch.linalg.solve(gram + trust * torch.eye(len(gram)), right)
                signs = self.corrected(step, t)
                if signs is not None:
                    self.field, self.functionals = signs[:, None] * self.field, signs * self.functionals
                    self._solve(number, step)
                    return
                unknowns = step.begun(t)
            t = step.coefficients(unknowns)
            left = (size + float(t @ (gram @ t) - 2 * (right @ t))) / count
            after = step.fitted(unknowns, gram, right, max(left, 2 * noise))
            t = step.coefficients(after)
            if size + float(t @ (gram @ t) - 2 * (right @ t)) > POOR * noise * count:
                after = step.searched(after, gram, right, max(left, 2 * noise))
            moved, unknowns = float((after - unknowns).abs().max()), after
            lights = [(each, *self.light(each.which)) for each in stages]
            fields = torch.cat((field, *[turned(step, unknowns, u, each) for each, u, _ in lights]))
            told = torch.cat((y, *[some for _, _, some in lights]))
            self.functionals, self.dark = quadratic_fit(self.functionals, self.signs, self.dark, fields, told, 3)
            if moved < STILL:
                break
        self.left.append(self._left(fields, told))
        if unknowns is not None:
            self._carry(step, unknowns)
            self.settle(number, step, unknowns)
        if self.doubtful(number):
            self._jointly(number, self._latest(self.pool(number + 1)))

    def _tried(self, number: int, step: LayerStep) -> float:
        """The power that a layer leaves of the readings and of their differences, at the present field in front."""
        field, y = self.light(self._latest(self.pool(number)))
        self.functionals, self.dark = quadratic_fit(self.functionals, self.signs, self.dark, field, y, 3)
        rest = (y - modelled(self.functionals, self.signs, self.dark, field)[0]).square()
        gram, right, size, _ = self._normal(number, step)
        noise = max(self.left[-1] ** 2, EXACT) * float(y.square().mean())
        trust = 1e-9 * float(gram.diagonal().mean()) + 8 * noise
        t = torch.linalg.solve(gram + trust * torch.eye(len(gram)), right)
        t = step.coefficients(step.fitted(step.begun(t), gram, right, 2 * noise))
        return float(rest.sum()) + size + float(t @ (gram @ t) - 2 * (right @ t))

    def _moved(self, each: int, number: int, turn: float) -> None:
        steps = self.walk.steps[self._unseen[each] : number]
        for step in reversed(steps):
            self._carry_back(step, step.gathered(self.offset, self.errors))
        super()._moved(each, number, turn)
        for step in steps:
            self._carry(step, step.gathered(self.offset, self.errors))

    def end(self) -> None:
        field, y = self.light(self._latest(self.layer >= 0))
        self.functionals, self.dark = quadratic_fit(self.functionals, self.signs, self.dark, field, y, 5)
        form, several = forms(self.functionals, self.signs), len(self.signs)
        self.gains = form.norm(dim=(1, 2)) / math.sqrt(several)
        if self.walk.two:
            return
        ports = torch.arange(len(form))
        upper, lower = several * ports, several * ports + several - 1
        ends = LayerStep(
            self.walk.last, Shifters(upper, lower, ports, several > 1, 0.0, 1.0), self.modes, self.walk.pending
        )
        found = []
        for group in ends.groups:
            each = form[group.which[:, None, None], group.support[:, :, None], group.support[:, None, :]]
            each = each / self.gains[group.which, None, None]
            found.append(torch.einsum("mij,bji->bm", group.basis, each).real.flatten())
        t = torch.cat(found)
        ends.scatter(ends.fitted(ends.begun(t), torch.eye(len(t), dtype=t.dtype), t, 1e-6), self.offset, self.errors)

    def _normal(self, number: int, step: LayerStep) -> tuple[Tensor, Tensor, float, int]:
        """`G t = b` of the coefficients, and the power and the number of the differences in them."""
        owners, size, count = step.owners(), 0.0, 0
        gram, right = torch.zeros(len(owners), len(owners), dtype=torch.float64), torch.zeros(len(owners)).double()
        stages = self.stages(number, step)
        for on in (each for each in stages if each.turn > 0):
            back = next(each for each in stages if each.turn == -on.turn and torch.equal(each.members, on.members))
            field, y = self.light(on.which)
            design, constant = designed(step, self.functionals, self.signs, field, on.members, on.turn)
            rest = (y - self.light(back.which)[1] - constant).flatten()
            which = torch.isin(owners, on.members).nonzero().flatten()
            design = design.flatten(1)
            gram[which[:, None], which] += design @ design.mT
            right[which] += design @ rest
            size, count = size + float(rest.square().sum()), count + rest.numel()
        self._straight(number, step, gram, right)
        return gram, right, size, count

    def _straight(self, number: int, step: LayerStep, gram: Tensor, right: Tensor) -> None:
        """Shifters right in front of an output change no power: the form of that output is their generator."""
        if step.shifters.push:
            return
        later, several = self.walk.mixed_behind(number), len(self.signs)
        form, owners = forms(self.functionals, self.signs), step.owners()
        weight = float(gram.diagonal().max()) or 1.0
        for group in step.groups:
            for b, support in zip(group.which.tolist(), group.support, strict=True):
                mode = int(step.shifters.upper[b])
                if mode in later or mode // several >= len(form):
                    continue
                here = form[mode // several][support[:, None], support]
                t = torch.einsum("mij,ji->m", group.basis, here).real * (-1) ** (mode % several)
                which = (owners == b).nonzero().flatten()
                gram[which[:, None], which] = weight * torch.eye(len(which), dtype=gram.dtype)
                right[which] = weight * math.sqrt(1 - 1 / len(support)) * t / t.norm().clamp_min(1e-30)

    def _carry(self, step: LayerStep, unknowns: Tensor) -> None:
        """The functionals behind a layer of those in front of it."""
        settings = self.base.expand(len(self.functionals), -1)
        carried = step.shifters.through(step.through(self.functionals.mH, unknowns), settings).mH
        if not step.shifters.push:
            carried[:, :, torch.cat(step.shifters.members[:2])] /= abs(step.shifters.factor) ** 2
        self.functionals = carried

    def _carry_back(self, step: LayerStep, unknowns: Tensor) -> None:
        """The functionals in front of a layer of those behind it."""
        settings = self.base.expand(len(self.functionals), -1)
        self.functionals = step.transposed(step.shifters.through(self.functionals.mT, settings), unknowns).mT

    def _latest(self, which: Tensor) -> Tensor:
        """As many of those programmings, the latest, as a fit of the functionals needs."""
        count = math.ceil(POOL * len(self.signs) * self.modes / self.readings.shape[1])
        kept = torch.zeros_like(which)
        kept[which.nonzero().flatten()[-max(count, 2) :]] = True
        return kept

    def _jointly(self, number: int, which: Tensor) -> None:
        first = max(0, number - BACK + 1)
        steps = self.walk.steps[first : number + 1]
        window = Window(steps, self.fields[first][which], self.drives[which])
        unknowns = torch.cat([each.gathered(self.offset, self.errors) for each in steps])
        y = self.readings[which].flatten(0, 1)
        unknowns, self.functionals, self.dark = joint_fit(window, unknowns, self.functionals, self.signs, self.dark, y)
        self.left[-1] = self._left(window.through(unknowns), y)
        self.rewound(first, steps, unknowns)

    def _left(self, field: Tensor, readings: Tensor) -> float:
        found, _ = modelled(self.functionals, self.signs, self.dark, field)
        return float((readings - found).norm() / readings.norm().clamp_min(1e-300))
