"""The first functionals of detectors of power, and the phases of the first column that real rows show in power."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from blackprop.twins.chips.growth._quadratic import factored, lifted, modelled, quadratic_fit
from blackprop.twins.chips.growth._step import LayerStep

GRID = 180  # angles that are tried
STARTS, ROUNDS, FOUND = 9, 60, 0.02  # of a fit, its steps, and the relative residual that ends the search


def begun(form: Tensor, signs: Tensor, field: Tensor, readings: Tensor) -> tuple[Tensor, Tensor]:
    """The functionals and the dark levels, output by output the best of several fits: from the eigenvectors of the
    lifted form, and where real light shows that in part, from its rows or from a point beside.
    """
    dark = torch.zeros(len(form), dtype=torch.float64)
    eigen, generator = factored(form, signs), torch.Generator().manual_seed(0)
    best: tuple[Tensor, Tensor, Tensor] | None = None
    for start in range(min(STARTS, form.shape[1] + 1)):
        functionals = eigen
        if start and len(signs) == 1:
            row = form[:, start - 1]
            functionals = (row / row[:, start - 1 : start].abs().clamp_min(1e-12).sqrt())[:, None]
        elif start:
            beside = torch.randn(2, *eigen.shape, generator=generator, dtype=torch.float64)
            functionals = eigen + 0.5 * eigen.abs().mean() * torch.complex(beside[0], beside[1])
        found = quadratic_fit(functionals, signs, dark, field, readings, ROUNDS)
        left = (readings - modelled(found[0], signs, found[1], field)[0]).square().sum(0)
        if best is None:
            best = left, *found
        else:
            better = left < best[0]
            functionals = torch.where(better[:, None, None], found[0], best[1])
            best = torch.where(better, left, best[0]), functionals, torch.where(better, found[1], best[2])
        if float(best[0].sum()) < FOUND**2 * float(readings.square().sum()):
            break
    assert best is not None
    return best[1:]


def first_phases(step: LayerStep, base: Tensor, rows: Tensor, flat: Tensor, turned: Tensor) -> list[Tensor]:
    """The offsets (n,) of the push-pull phases of the first column, as one or two hypotheses.

    Half a turn of the outer phases takes the form `Re H` that real rows show to `N Re H N`, with the reflection
    `N = 1 − 2 v vᵀ` in each block, `v = (sin φ, cos φ)`. A block's own part of the forms shows N up to its sign; those
    of two blocks show the product of their signs.

    **Arguments:** `base` (n,), the phases as set; `rows` (rows, modes); `flat` and `turned` (rows, outputs), the
    readings with the outer phases a quarter turn back and on.
    """
    before, after = (lifted(rows.to(torch.complex128), y, real=True)[0].real for y in (flat, turned))
    pairs = torch.stack((step.shifters.upper, step.shifters.lower), 1)
    angles = torch.arange(GRID, dtype=torch.float64) * (math.pi / GRID)  # 2b for v = (cos b, sin b)
    reflections = torch.stack((-angles.cos(), -angles.sin(), -angles.sin(), angles.cos()), -1).view(-1, 2, 2)
    near, far = (form[:, pairs[:, :, None], pairs[:, None, :]][:, :, None] for form in (before, after))
    best = angles[(far - reflections @ near @ reflections).square().sum((0, 3, 4)).argmin(1)]
    flip = torch.eye(step.modes, dtype=torch.float64)
    for pair, angle in zip(pairs, best, strict=True):
        flip[pair[:, None], pair] = torch.stack((-angle.cos(), -angle.sin(), -angle.sin(), angle.cos())).view(2, 2)
    agreement = (after * (flip @ before @ flip)).sum(0)
    alone = sorted(set(range(step.modes)) - set(pairs.flatten().tolist()))
    groups = [*pairs.tolist(), *[[mode] for mode in alone]]
    table = torch.stack([torch.stack([agreement[a][:, b].sum() for b in groups]) for a in groups])
    signs = torch.linalg.eigh(table - table.diagonal().diag())[1][:, -1].sign()
    # Modes without a shifter keep their sign.
    signs = (signs * signs[len(pairs) :].sum().sign(),) if alone else (signs, -signs)
    turns = [best + torch.where(each[: len(pairs)] < 0, math.pi, 0.0) for each in signs]
    return [math.pi / 2 - turn / 2 - base for turn in turns]
