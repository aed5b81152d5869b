"""Readings of power as quadratic forms of the field, and the functionals that they are made of."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from blackprop.twins.chips.growth._step import LayerStep
from blackprop.twins.chips.growth._window import Window

TOGETHER, GIVEN_UP = 12, 1e6  # steps of a joint fit, and the damping that ends it


def modelled(functionals: Tensor, signs: Tensor, dark: Tensor, field: Tensor) -> tuple[Tensor, Tensor]:
    """`Σ_c g_c |F_c u|² + d` (m, outputs), and the amplitudes `F_c u` (outputs, c, m)."""
    amplitudes = torch.einsum("ocn,mn->ocm", functionals, field)
    return (signs[:, None] * amplitudes.abs().square()).sum(1).mT + dark, amplitudes


def slopes(amplitudes: Tensor, signs: Tensor, field: Tensor) -> Tensor:
    """The derivatives (outputs, m, 2 c modes + 1) of the readings for Re F, Im F and d."""
    each = 2 * signs[:, None, None] * amplitudes.conj()[..., None] * field  # (o, c, m, n)
    both = torch.stack((each.real, -each.imag), 1).permute(0, 3, 1, 2, 4).flatten(2)
    return torch.cat((both, torch.ones_like(both[..., :1])), -1)


def moved(functionals: Tensor, dark: Tensor, step: Tensor) -> tuple[Tensor, Tensor]:
    count, several, modes = functionals.shape
    parts = step[:, :-1].view(count, 2, several, modes)
    return functionals + torch.complex(parts[:, 0], parts[:, 1]), dark + step[:, -1]


def quadratic_fit(
    functionals: Tensor, signs: Tensor, dark: Tensor, field: Tensor, readings: Tensor, rounds: int
) -> tuple[Tensor, Tensor]:
    """F and d by damped Gauss-Newton steps on the readings (m, outputs) of fields u (m, modes), output by output."""
    found, amplitudes = modelled(functionals, signs, dark, field)
    rest = readings - found
    loss, damping = rest.square().sum(0), torch.full((len(functionals),), 1e-3, dtype=torch.float64)
    for _ in range(rounds):
        slope = slopes(amplitudes, signs, field)
        gram = slope.mT @ slope
        gram.diagonal(dim1=1, dim2=2).add_((damping * gram.diagonal(dim1=1, dim2=2).mean(1))[:, None])
        step = torch.linalg.solve(gram, slope.mT @ rest.mT[..., None])[..., 0]
        next_functionals, next_dark = moved(functionals, dark, step)
        found, next_amplitudes = modelled(next_functionals, signs, next_dark, field)
        next_rest = readings - found
        after = next_rest.square().sum(0)
        better = after < loss
        functionals = torch.where(better[:, None, None], next_functionals, functionals)
        dark = torch.where(better, next_dark, dark)
        amplitudes = torch.where(better[:, None, None], next_amplitudes, amplitudes)
        rest = torch.where(better, next_rest, rest)
        gained = (loss - after).clamp_min(0).sum() / loss.sum().clamp_min(1e-300)
        loss = torch.where(better, after, loss)
        damping = torch.where(better, damping / 10, damping * 10).clamp(1e-9, 1e9)
        if gained < 1e-6 and bool(better.any()):
            break
    return functionals, dark


def lifted(field: Tensor, readings: Tensor, real: bool = False) -> tuple[Tensor, float]:
    """The Hermitian H (outputs, modes, modes) of `y = u† H u + d` by least squares, and the relative residual;
    symmetric where the fields are real.
    """
    modes = field.shape[1]
    upper, lower = torch.triu_indices(modes, modes, 1)
    cross = field[:, upper].conj() * field[:, lower]
    parts = [field.abs().square(), 2 * cross.real] + ([] if real else [-2 * cross.imag])
    parts.append(torch.ones(len(field), 1, dtype=torch.float64))
    design = torch.cat(parts, 1)
    if len(design) < design.shape[1]:
        gram = design @ design.mT
        gram.diagonal().add_(1e-9 * gram.diagonal().mean())
        found = design.mT @ torch.linalg.solve(gram, readings)
    else:
        gram = design.mT @ design
        gram.diagonal().add_(1e-9 * gram.diagonal().mean())
        found = torch.linalg.solve(gram, design.mT @ readings)
    left = float((readings - design @ found).norm() / readings.norm())
    found = found.mT
    size = len(upper)
    form = torch.zeros(len(found), modes, modes, dtype=torch.complex128)
    form[:, range(modes), range(modes)] = found[:, :modes].to(form.dtype)
    skew = torch.zeros_like(found[:, :size]) if real else found[:, modes + size : modes + 2 * size]
    entries = torch.complex(found[:, modes : modes + size], skew)
    form[:, upper, lower], form[:, lower, upper] = entries, entries.conj()
    return form, left


def factored(form: Tensor, signs: Tensor) -> Tensor:
    """The functionals F (outputs, c, modes) of `H = Σ_c g_c F_c† F_c`, by the largest eigenvalue of each sign."""
    values, vectors = torch.linalg.eigh(form)
    found = []
    for sign in signs.tolist():
        place = -1 if sign > 0 else 0
        size = (sign * values[:, place]).clamp_min(0).sqrt()
        found.append(size[:, None] * vectors[:, :, place].conj())
    return torch.stack(found, 1)


def forms(functionals: Tensor, signs: Tensor) -> Tensor:
    """`H = Σ_c g_c F_c† F_c` (outputs, modes, modes)."""
    return torch.einsum("c,oci,ocj->oij", signs.to(functionals.dtype), functionals.conj(), functionals)


def joint_fit(
    window: Window, unknowns: Tensor, functionals: Tensor, signs: Tensor, dark: Tensor, readings: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The unknowns of a window and the functionals behind it by damped Gauss-Newton steps; those of the functionals are
    eliminated output by output.
    """
    field = window.through(unknowns)
    found, amplitudes = modelled(functionals, signs, dark, field)
    rest, damping = readings - found, 1e-3
    for _ in range(TOGETHER):
        prior = window.prior * float(rest.square().mean())
        loss = float(rest.square().sum() + (prior * unknowns.square()).sum())
        by_form = slopes(amplitudes, signs, field)  # (o, m, f)
        weight = 2 * torch.einsum("ocm,ocn->omn", signs[:, None] * amplitudes.conj(), functionals)
        slope = window.slopes(unknowns, weight)  # (o, m, p)
        gram = by_form.mT @ by_form
        mean = gram.diagonal(dim1=1, dim2=2).mean(1)[:, None, None]
        both = by_form.mT @ torch.cat((slope, rest.mT[..., None]), -1)
        curved = (slope.mT @ slope).sum(0) + prior.diag()
        downhill = torch.einsum("omp,mo->p", slope, rest) - prior * unknowns
        scale, after, step = float(curved.diagonal().mean()), None, torch.zeros_like(unknowns)
        while damping < GIVEN_UP:
            solved = torch.linalg.solve(gram + damping * mean * torch.eye(gram.shape[-1]), both)
            schur = curved - (both[..., :-1].mT @ solved[..., :-1]).sum(0)
            schur.diagonal().add_(damping * scale)
            right = downhill - (both[..., :-1].mT @ solved[..., -1:]).sum(0)[:, 0]
            step = torch.linalg.solve(schur, right)
            trial = moved(functionals, dark, solved[..., -1] - solved[..., :-1] @ step)
            next_field = window.through(unknowns + step)
            found, next_amplitudes = modelled(trial[0], signs, trial[1], next_field)
            left = float((readings - found).square().sum() + (prior * (unknowns + step).square()).sum())
            if left < loss:
                after = left
                functionals, dark = trial
                field, amplitudes, rest = next_field, next_amplitudes, readings - found
                break
            damping *= 5
        if after is None:
            break
        unknowns, damping = unknowns + step, max(damping / 8, 1e-8)
        if loss - after < 1e-7 * loss or after < 1e-20 * float(readings.square().sum()):
            break
    return unknowns, functionals, dark


def designed(
    step: LayerStep, functionals: Tensor, signs: Tensor, field: Tensor, members: Tensor, turn: float
) -> tuple[Tensor, Tensor]:
    """Of the differences between readings at ± a turn of some shifters: the design (t, m, outputs) of their
    coefficients, and the differences (m, outputs) without them.
    """
    parts, constant = [], torch.zeros(len(field), len(functionals), dtype=torch.float64)
    kept = field
    if step.shifters.push:
        kept = field.clone()
        for group in step.groups:
            chosen = group.support[torch.isin(group.which, members)].flatten()
            kept[:, chosen] *= math.cos(turn)
    weight = -4 * math.sin(turn) * signs[:, None] * torch.einsum("ocn,mn->ocm", functionals, kept).conj()
    for group in step.groups:
        support = group.support[torch.isin(group.which, members)]
        n = support.shape[1]
        u, f = field[:, support], functionals[:, :, support]  # (m, b, n), (o, c, b, n)
        constant = constant + step.trace / n * (weight * torch.einsum("ocbn,mbn->ocm", f, u)).imag.sum(1).mT
        turned = torch.einsum("kij,mbj->bkim", group.basis, u)
        through = torch.einsum("ocbi,bkim->bkmoc", f, turned)
        parts.append((weight.permute(2, 0, 1) * through).imag.sum(-1).flatten(0, 1))
    return torch.cat(parts), constant
