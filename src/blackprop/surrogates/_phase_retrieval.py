"""A complex matrix from the powers of its outputs."""

from __future__ import annotations

import torch
from torch import Tensor

ITERATIONS, LOOKED = 600, 20  # of the projections at most; iterations between two looks at the residual
GAINED = 0.999  # of a residual that must be undercut between two looks
RESTARTS = 3  # of outputs that stay behind
BEHIND = 3.0  # times the median residual of the outputs
LINEARISED, CONJUGATE = 4, 24  # Gauss-Newton steps on the powers, and conjugate gradients of each


def retrieve(w: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
    """R (n, d), complex, with `|w R|² ≈ y`, each column up to a phase, for fields w (m, n) and powers y (m, d). Where w
    is real, up to a conjugation as well.

    Spectral start: the leading eigenvectors of `Σ_m T(y_m) w_m w_m†`, T(y) = 1 − 1/y cut off below (Mondelli and
    Montanari, arXiv 1708.05932). Then alternating projections, `R ← w⁺ (√y ⊙ wR/|wR|)` (Netrapalli et al., arXiv
    1306.0160). Columns that end with three times the median residual begin again elsewhere. The noise is that of powers
    and not of amplitudes: Gauss-Newton steps on `|w R|² − y` end it.
    """
    start = _spectral(w, y)
    w = w.to(start)
    amplitudes, inverse = y.clamp_min(0).sqrt(), torch.linalg.pinv(w)
    found = _projected(w, inverse, amplitudes, start)
    for _ in range(RESTARTS):
        left = _left(w, found, amplitudes)
        poor = left > BEHIND * left.median() + torch.finfo(left.dtype).eps ** 0.5
        if not bool(poor.any()):
            break
        start = torch.randn(len(found), int(poor.sum()), 2, generator=generator, device=generator.device)
        start = torch.view_as_complex(start).to(found) * amplitudes[:, poor].square().mean().sqrt() / len(found) ** 0.5
        again = _projected(w, inverse, amplitudes[:, poor], start)
        better = _left(w, again, amplitudes[:, poor]) < left[poor]
        found[:, poor] = torch.where(better, again, found[:, poor])
    for _ in range(LINEARISED):
        found = _improved(w, y, found)
    return found


def _spectral(w: Tensor, y: Tensor) -> Tensor:
    m, n = w.shape
    size = w.norm(dim=1, keepdim=True) / n**0.5
    size = size.clamp_min(1e-3 * size.max())
    unit, power = w / size, y / size.square()
    power = power / power.mean(0).clamp_min(torch.finfo(y.dtype).tiny)
    weights = 1 - 1 / power.clamp_min(0.2)
    moments = torch.einsum("md,mi,mj->dij", weights.to(w), unit.conj(), unit) / m
    vectors = torch.linalg.eigh(moments)[1]
    # Real fields see the real and the imaginary part of a column as two vectors of their own.
    found = vectors[..., -1] if w.is_complex() else torch.complex(vectors[..., -1], vectors[..., -2 % w.shape[1]])
    found = found.mT.contiguous()
    field = (w.to(found) @ found).abs()
    return found * ((field * y.clamp_min(0).sqrt()).sum(0) / field.square().sum(0)).to(found)


def _projected(w: Tensor, inverse: Tensor, amplitudes: Tensor, found: Tensor) -> Tensor:
    before = float("inf")
    for number in range(1, ITERATIONS + 1):
        field = w @ found
        found = inverse @ torch.polar(amplitudes, field.angle())
        if number % LOOKED == 0:
            now = float(_left(w, found, amplitudes).square().mean().sqrt())
            if now > GAINED * before:
                break
            before = now
    return found


def _left(w: Tensor, found: Tensor, amplitudes: Tensor) -> Tensor:
    """The relative error of the amplitudes of each column."""
    tiny = torch.finfo(amplitudes.dtype).tiny
    return ((w @ found).abs() - amplitudes).norm(dim=0) / amplitudes.norm(dim=0).clamp_min(tiny)


def _improved(w: Tensor, y: Tensor, found: Tensor) -> Tensor:
    """Columns after a Gauss-Newton step on the powers, by conjugate gradients; those that do not gain stay."""
    field = w @ found
    left = y - field.abs().square()
    before = left.square().sum(0)
    tiny = torch.finfo(y.dtype).tiny
    change, gradient = torch.zeros_like(found), 2 * w.mH @ (field * left)
    along, power = gradient, gradient.abs().square().sum(0)
    for _ in range(CONJUGATE):
        answer = 2 * (field.conj() * (w @ along)).real
        size = power / answer.square().sum(0).clamp_min(tiny)
        change = change + size * along
        left = left - size * answer
        gradient = 2 * w.mH @ (field * left)
        power, last = gradient.abs().square().sum(0), power
        along = gradient + power / last.clamp_min(tiny) * along
    again = found + change
    after = (y - (w @ again).abs().square()).square().sum(0)
    return torch.where(after < before, again, found)
