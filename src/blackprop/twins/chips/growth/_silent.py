"""Phase shifters that do not answer: which they are, from the readings of the stages that should turn them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from blackprop.twins.chips.growth._growth import Stage, changes
from blackprop.twins.chips.growth._layers import Splitters
from blackprop.twins.chips.growth._programme import Walk
from blackprop.twins.chips.growth._step import LayerStep

LIT = 1e-2  # of the power of the usual output


def answers(
    step: LayerStep, s: Tensor, lights: list[tuple[Stage, Tensor, Tensor]], noise: float, blind: bool
) -> tuple[Tensor, Tensor]:
    """How far each shifter of a layer answers to its turn, about 1 where it does and 0 where it does not, and the
    standard error of that, (b,).

    A turn changes the readings by `Re(s (κ₀ 1_b + κ₁ G_b) u)`. Least squares tell how much there is of the part of the
    trace of G_b, and of the rest: the answer is the size of both together.

    **Arguments:** `s` (outputs, modes); `lights`, of each stage its fields (m, modes) and readings (m, outputs);
    `noise`, the variance of a reading at least; `blind`, whether the light is real in part: the functionals are
    known in part there, and any change with a shifter's own light counts for an answer.
    """
    owners = step.owners()
    count, shifters = len(owners), len(step.shifters.upper)
    gram = torch.zeros(count + shifters, count + shifters, dtype=torch.float64)
    right, size, told = torch.zeros(count + shifters, dtype=torch.float64), 0.0, 0
    for stage, field, y in lights:
        rows = torch.zeros(count + shifters, *y.shape, dtype=torch.float64)
        zero, one = changes(step.shifters, stage.turn)
        place = 0
        for group in step.groups:
            chosen = torch.isin(group.which, stage.members)
            support, kinds = group.support[chosen], len(group.basis)
            u, f = field[:, support], s[:, support]
            share = zero + one * step.trace / group.support.shape[1]
            rows[count + group.which[chosen]] = (share * torch.einsum("obn,mbn->bmo", f, u)).real
            through = torch.einsum("obi,bkim->bkmo", f, torch.einsum("kij,mbj->bkim", group.basis, u))
            here = (torch.arange(len(group.which))[chosen, None] * kinds + torch.arange(kinds)).flatten() + place
            rows[here] = (one * through).real.flatten(0, 1)
            place += len(group.which) * kinds
        rest = (y - (field @ s.mT).real).flatten()
        design = rows.flatten(1)
        gram, right = gram + design @ design.mT, right + design @ rest
        size, told = size + float(rest.square().sum()), told + rest.numel()
    inverse = torch.linalg.inv(gram + (1e-9 * gram.diagonal().mean() + 1e-300) * torch.eye(len(gram)))
    found = inverse @ right
    left, whole = max(noise, (size - float(found @ right)) / told), gram.diagonal()[count:].clamp_min(1e-300)
    every = torch.cat((owners, torch.arange(shifters)))
    own = torch.where(every == torch.arange(shifters)[:, None], found, 0.0)  # (b, unknowns)
    much = ((own @ gram) * own).sum(1).clamp_min(0) / (2 * whole)
    for stage, field, y in lights if blind else []:
        much = torch.maximum(much, _own(step, s, stage, field, y))
    return much.sqrt(), (left * inverse.diagonal()[count:]).clamp_min(0).sqrt()


def visible(walk: Walk, readings: Tensor) -> set[int]:
    """The numbers in θ of the shifters whose light reaches an output that gives light."""
    power, found = readings.square().mean((0, 1)), set[int]()
    reached = set((power > LIT * power.median()).nonzero().flatten().tolist())
    splitters = walk.last
    for layer in reversed(walk.layers):
        _spread(reached, splitters)
        upper, lower, numbers = (each.tolist() for each in layer.shifters.members)
        modes = zip(upper, lower if layer.shifters.push else upper, numbers, strict=True)
        found |= {number for one, other, number in modes if reached & {one, other}}
        splitters = layer.splitters
    return found


def _spread(reached: set[int], splitters: Sequence[Splitters]) -> None:
    for each in reversed(splitters):
        for pair in zip(each.upper.tolist(), each.lower.tolist(), strict=True):
            if reached & set(pair):
                reached |= set(pair)


def _own(step: LayerStep, s: Tensor, stage: Stage, field: Tensor, y: Tensor) -> Tensor:
    """The power of the change that follows each shifter's own light in a stage, relative to that of the light, (b,)."""
    parts = torch.cat((field.real, -field.imag), 1)
    change = torch.linalg.lstsq(parts, y - (field @ s.mT).real, rcond=1e-6, driver="gelsd").solution
    found = torch.zeros(len(step.shifters.upper), dtype=torch.float64)
    for group in step.groups:
        for b, support in zip(group.which.tolist(), group.support, strict=True):
            if b in stage.members:
                own = torch.cat((support, step.modes + support))
                usual = (field[:, support] @ s[:, support].mT).real.square().sum().clamp_min(1e-300)
                found[b] = (parts[:, own] @ change[own]).square().sum() / (2 * usual)
    return found
