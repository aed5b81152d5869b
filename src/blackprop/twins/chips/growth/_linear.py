"""The growth for readings of the field, of which each output is a linear functional."""

from __future__ import annotations

import math
from typing import final

import torch
from torch import Tensor

from blackprop.twins.chips.growth._growth import BACK, Growth, Stage, changes, turned
from blackprop.twins.chips.growth._layers import Shifters
from blackprop.twins.chips.growth._pin import pinned
from blackprop.twins.chips.growth._programme import EARLY
from blackprop.twins.chips.growth._silent import answers, visible
from blackprop.twins.chips.growth._step import LayerStep
from blackprop.twins.chips.growth._window import Window

ALTERNATIONS, STILL = 8, 1e-9  # of a layer's unknowns and the functionals; rad, a change that ends them
ROUNDS = 30  # of a joint fit
POOR = 8  # times the noise: a layer's offsets are wrong
EXACT = 1e-14  # of the readings' power: less is rounding
SILENT, SURE = 0.3, 0.5  # of a shifter's answer: below that it is dead, where the error is below this
UNLIT = 0.1  # of the usual functional: the phase of an output with less is noise
CAREFUL = 1e-4  # of the readings' power, the noise that is assumed at first where little is known


@final
class LinearGrowth(Growth):
    """`y = Re(s u)`: the functionals s follow from a pool of readings by linear least squares. Directions of s that the
    pool does not show are left free in the readings of a stage, which are weighted by how well each is predicted.
    """

    _visible: set[int]

    def begin(self) -> None:
        """The first functionals follow from readings, as all others."""
        self._visible = visible(self.walk, self.readings)

    def solve(self, number: int, step: LayerStep) -> None:
        self.search(number, lambda: self._tried(number, step))
        self._solve(number, step)

    def _solve(self, number: int, step: LayerStep) -> None:
        field, y = self.light(self.pool(number))
        size = float(y.square().mean())
        noise = max(self.left[-1] ** 2 if self.left else 0.0, EXACT) * size
        ridge = noise * float(field.abs().square().sum(1).mean()) / max(size, 1e-300)
        parts = _parts(field)
        gram, right = parts.mT @ parts, parts.mT @ y
        gram.diagonal().add_(ridge)
        prior = s = torch.linalg.solve(gram, right)  # (2 modes, outputs), real
        self._listen(number, step, _complex(s), noise)
        stages, unknowns, moved = self.stages(number, step), None, math.inf
        told = torch.cat([self.light(each.which)[1] for each in stages])
        now = parts[:0]
        for _ in range(ALTERNATIONS):
            normal = self._normal(step, stages, s, prior, gram, unknowns)
            if unknowns is None:
                trust = 1e-9 * float(normal[0].diagonal().mean()) + 4 * noise
                t = torch.linalg.solve(normal[0] + trust * torch.eye(len(normal[0])), normal[1])
                signs = self.corrected(step, t)
                if signs is not None:
                    self.field = signs[:, None] * self.field
                    self._solve(number, step)
                    return
                unknowns = step.begun(t)
            else:
                t = step.coefficients(unknowns)
                left = float(normal[2] + t @ (normal[0] @ t) - 2 * (normal[1] @ t)) / told.numel()
                after = step.fitted(unknowns, *normal[:2], max(left, noise))
                t = step.coefficients(after)
                left = float(normal[2] + t @ (normal[0] @ t) - 2 * (normal[1] @ t)) / told.numel()
                if left > POOR * max(noise, CAREFUL * size) and number >= EARLY:
                    after = step.searched(after, *normal[:2], max(left, noise))
                moved, unknowns = float((after - unknowns).abs().max()), after
            now = _parts(torch.cat([turned(step, unknowns, self.light(each.which)[0], each) for each in stages]))
            s = torch.linalg.solve(gram + now.mT @ now, right + now.mT @ told)
            if moved < STILL:
                break
        rest = math.hypot(float((y - parts @ s).norm()), float((told - now @ s).norm()))
        self.left.append(rest / max(math.hypot(float(y.norm()), float(told.norm())), 1e-300))
        if unknowns is not None:
            self.settle(number, step, unknowns)
        if number and self.doubtful(number):
            self._jointly(number, ridge, noise, CAREFUL * size)

    def _listen(self, number: int, step: LayerStep, s: Tensor, noise: float) -> None:
        """Find the shifters of a layer that do not answer."""
        stages = [(each, *self.light(each.which)) for each in self.stages(number, step)]
        much, error = answers(step, s, stages, noise, number < self.walk.front or self.walk.blind[number])
        silent = (much < SILENT) & (error < SURE)
        dead = [
            each for each in step.shifters.number[silent].tolist() if each in self._visible and each not in self.dead
        ]
        if dead:
            self.silence(number, step, dead)

    def _tried(self, number: int, step: LayerStep) -> float:
        """The power that a layer leaves of the readings at the present field in front of it, without refinement."""
        field, y = self.light(self.pool(number))
        parts, size = _parts(field), float(y.square().mean())
        gram = parts.mT @ parts
        gram.diagonal().add_(EXACT * float(field.abs().square().sum(1).mean()))
        s = torch.linalg.solve(gram, parts.mT @ y)
        normal = self._normal(step, self.stages(number, step), s, s, gram, None)
        noise = max(self.left[-1] ** 2, CAREFUL) * size
        trust = 1e-9 * float(normal[0].diagonal().mean()) + 4 * noise
        t = torch.linalg.solve(normal[0] + trust * torch.eye(len(normal[0])), normal[1])
        t = step.coefficients(step.fitted(step.begun(t), *normal[:2], noise))
        return float((y - parts @ s).square().sum() + normal[2] + t @ (normal[0] @ t) - 2 * (normal[1] @ t))

    def end(self) -> None:
        field, y = self.light(self.layer >= 0)
        parts = _parts(field)
        gram = parts.mT @ parts
        gram.diagonal().add_(1e-12 * float(gram.diagonal().mean()))
        s = _complex(torch.linalg.solve(gram, parts.mT @ y))
        ports = torch.arange(len(s))
        if self.walk.two:
            lit = s.norm(dim=1) > UNLIT * s.norm(dim=1).median()
            self.offset = pinned(self.walk.layout, self.offset, torch.where(lit, s[ports, ports].angle(), torch.nan))
            return
        ends = LayerStep(self.walk.last, Shifters(ports, ports, ports, False, 0.0, 1.0), self.modes, self.walk.pending)
        found = []
        for group in ends.groups:
            profile = s[group.which[:, None], group.support].conj()
            profile = profile / profile.norm(dim=1, keepdim=True)
            each = profile[:, :, None] * profile[:, None, :].conj()
            found.append(torch.einsum("mij,bji->bm", group.basis, each).real.flatten())
        t = torch.cat(found)
        ends.scatter(ends.fitted(ends.begun(t), torch.eye(len(t), dtype=t.dtype), t, 1e-6), self.offset, self.errors)

    def _normal(
        self, step: LayerStep, stages: list[Stage], s: Tensor, prior: Tensor, pool: Tensor, unknowns: Tensor | None
    ) -> tuple[Tensor, Tensor, float]:
        """The normal equations `G t = b` of the coefficients, and the power of the readings in them.

        For the functionals `prior ± pool⁻¹` and the present ones s, readings are weighted by `(1 + A pool⁻¹ Aᵀ)⁻¹`, A
        being the fields at the unknowns.
        """
        owners, designs, rests, now = step.owners(), [], [], []
        for stage in stages:
            field, y = self.light(stage.which)
            some, constant = designed(step, _complex(s), field, stage)
            design = some.new_zeros(len(owners), *some.shape[1:])
            design[torch.isin(owners, stage.members)] = some
            designs.append(design)
            rests.append(y - constant)
            if unknowns is not None:
                now.append(_parts(turned(step, unknowns, field, stage)))
        design, rest = torch.cat(designs, 1), torch.cat(rests)
        weighted, told = design, rest
        if unknowns is not None:
            fields = torch.cat(now)
            rest = rest + fields @ (s - prior)
            weight = torch.linalg.inv(fields @ torch.linalg.solve(pool, fields.mT) + torch.eye(len(fields)))
            weighted, told = torch.einsum("tmo,mn->tno", design, weight), weight @ rest
        weighted = weighted.flatten(1)
        return weighted @ design.flatten(1).mT, weighted @ rest.flatten(), float((told * rest).sum())

    def _jointly(self, number: int, ridge: float, noise: float, careful: float) -> None:
        first = max(0, number - BACK + 1)
        steps = self.walk.steps[first : number + 1]
        which = (self.layer >= first) & (self.layer <= number)
        window = Window(steps, self.fields[first][which], self.drives[which])
        unknowns = torch.cat([each.gathered(self.offset, self.errors) for each in steps])
        y = self.readings[which].flatten(0, 1)
        for floor in (max(noise, careful), noise) if number % 2 else (max(noise, careful),):
            unknowns = _projected_fit(window, unknowns, y, ridge, floor)
        self.rewound(first, steps, unknowns)


def _projected_fit(window: Window, unknowns: Tensor, y: Tensor, ridge: float, noise: float) -> Tensor:
    """The unknowns of a window by variable projection: the functionals behind it are those that fit best."""

    def projected(at: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, float]:
        parts = _parts(window.through(at))
        gram = parts.mT @ parts
        gram.diagonal().add_(ridge)
        s = torch.linalg.solve(gram, parts.mT @ y)
        rest = y - parts @ s
        return parts, gram, s, rest, float(rest.square().sum() + ridge * s.square().sum())

    parts, gram, s, rest, power = projected(unknowns)
    damping = 1e-2
    for _ in range(ROUNDS):
        prior = window.prior * max(noise, float(rest.square().mean()))
        loss = power + float((prior * unknowns.square()).sum())
        by = window.slopes(unknowns, _complex(s)[:, None]).permute(2, 1, 0)  # (unknowns, m, outputs)
        by = by - parts @ torch.linalg.solve(gram, parts.mT @ by)
        by = by.flatten(1)
        curved, downhill = by @ by.mT + prior.diag(), by @ rest.flatten() - prior * unknowns
        scale = float(curved.diagonal().mean())
        step, after = torch.zeros_like(unknowns), None
        while damping < 1e8:
            step = torch.linalg.solve(curved + damping * scale * torch.eye(len(unknowns)), downhill)
            trial = projected(unknowns + step)
            if trial[-1] + float((prior * (unknowns + step).square()).sum()) < loss:
                after = trial
                break
            damping *= 4
        if after is None:
            break
        unknowns, damping = unknowns + step, max(damping / 8, 1e-5)
        parts, gram, s, rest, power = after
        if loss - power - float((prior * unknowns.square()).sum()) < 1e-10 * loss or float(step.abs().max()) < 1e-12:
            break
    return unknowns


def designed(step: LayerStep, s: Tensor, field: Tensor, stage: Stage) -> tuple[Tensor, Tensor]:
    """Of the readings of a stage: the design (t, m, outputs) of its coefficients and the rest (m, outputs)."""
    zero, one = changes(step.shifters, stage.turn)
    constant, parts = (field @ s.mT).real, []
    for group in step.groups:
        support = group.support[torch.isin(group.which, stage.members)]
        u, f = field[:, support], s[:, support]  # (m, b, n), (o, b, n)
        share = zero + one * step.trace / support.shape[1]
        constant = constant + (share * torch.einsum("obn,mbn->mo", f, u)).real
        through = torch.einsum("obi,bkim->bkmo", f, torch.einsum("kij,mbj->bkim", group.basis, u))
        parts.append((one * through).real.flatten(0, 1))
    return torch.cat(parts), constant


def _parts(field: Tensor) -> Tensor:
    """`(Re u, −Im u)`, so that `Re(s u)` is a product of real matrices."""
    return torch.cat((field.real, -field.imag), 1)


def _complex(s: Tensor) -> Tensor:
    """The functionals (outputs, modes) of their real and imaginary parts (2 modes, outputs)."""
    real, imaginary = s.mT.chunk(2, 1)
    return torch.complex(real.contiguous(), imaginary.contiguous())
