"""The steady state of driven modes with a Kerr nonlinearity, and its derivative."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from blackprop.errors import ReadingError, SecondDerivativeError

ITERATIONS = 60  # each move at most halves the one before: 2^-60 in all
FLOOR = 8.0  # units in the last place: the accuracy of a solve
WATCHED = 2.0**-4  # steps of the ramp of the drive, where the fields are so strong that they might become unstable
SHORTEST = 2.0**-8  # step of the ramp
CHUNK_BYTES = 32 * 2**20  # Jacobians held at a time


def steady_state(J: Tensor, drive: Tensor, kappa: float, kerr: float) -> Tensor:
    """Fields a (S, rows, N) with `κ a/2 + i J a + i g |a|² a + √κ in = 0`, for J (S, N, N) and drives (S, rows, N).

    It is the state that the modes follow when their drive is raised slowly from 0. Differentiable once.

    **Raises** `ReadingError` if that state ceases to exist or to be stable on the way.
    """
    if kerr:
        return _Settled.apply(J, drive, kappa, kerr)  # pyright: ignore[reportReturnType]
    return torch.linalg.solve(_rates(J, kappa), -math.sqrt(kappa) * drive.mT).mT


class _Settled(torch.autograd.Function):
    """The implicit function theorem: `da = −M⁻¹ dF`, with M the Jacobian of F at the steady state."""

    @staticmethod
    def forward(ctx: Any, J: Tensor, drive: Tensor, kappa: float, kerr: float) -> Tensor:
        a, found = _weak(J, drive, kappa, kerr)
        for rows, couplings in _by_row(J, ~found):
            a[rows] = _ramped(couplings, drive[rows], kappa, kerr)
        ctx.save_for_backward(J, a)
        ctx.constants = kappa, kerr
        return a

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        if torch.is_grad_enabled():
            raise SecondDerivativeError("the steady state of coupled modes offers its first derivative alone")
        J, a = ctx.saved_tensors
        kappa, kerr = ctx.constants
        # Autograd's gradient of a complex number is ∂L/∂Re + i ∂L/∂Im, the pair of real ones.
        inverse = torch.linalg.inv(_rates(J, kappa)).conj()
        own, other = -2j * kerr * _power(a), 1j * kerr * a * a  # of the transposed Jacobian
        pull, found = _contracted(
            lambda z: (grad - own * z - other * z.conj()) @ inverse, grad @ inverse, FLOOR * _eps(a)
        )
        for rows, couplings in _by_row(J, ~found):
            pull[rows] = _solve(_jacobian(a[rows], couplings, kappa, kerr).mT, grad[rows])
        return torch.einsum("srj,srl->sjl", pull.conj(), a).imag, -math.sqrt(kappa) * pull, None, None


def _weak(J: Tensor, drive: Tensor, kappa: float, kerr: float) -> tuple[Tensor, Tensor]:
    """Iterate `a = −G (√κ in + i g |a|² a)`, G one matrix for all rows of a setting; and in which rows that ends there.

    The iteration contracts where `3 g |a|² < κ/2`, since `‖G‖ ≤ 2/κ`, so its end is the only state so weak, and stable.
    """
    inverse = torch.linalg.inv(_rates(J, kappa))  # symmetric
    linear = -math.sqrt(kappa) * drive @ inverse
    a, found = _contracted(lambda a: linear - 1j * kerr * (_power(a) * a) @ inverse, linear, FLOOR * _eps(drive))
    return a, found & (6 * kerr * _power(a).amax(-1) < kappa)


def _contracted(advance: Callable[[Tensor], Tensor], a: Tensor, tolerance: float) -> tuple[Tensor, Tensor]:
    """Repeat `advance` on fields a (..., N); and in which rows (...) each move was at most half of the one before.

    A row is done once its move is at most `tolerance` of its size.
    """
    last = torch.full_like(a.real[..., 0], math.inf)
    safe, done = torch.ones_like(last, dtype=torch.bool), torch.zeros_like(last, dtype=torch.bool)
    for _ in range(ITERATIONS):
        new = advance(a)
        size = (new - a).norm(dim=-1)
        a = torch.where(done.unsqueeze(-1), a, new)
        done |= size <= tolerance * a.norm(dim=-1)
        safe &= done | (size <= last / 2)
        if bool((done | ~safe).all()):
            break
        last = size
    return a, safe & done


def _by_row(J: Tensor, which: Tensor) -> list[tuple[tuple[Tensor, Tensor], Tensor]]:
    """The rows (S, rows) that are marked, as indices, and their J, in parts whose Jacobians fit into memory."""
    most = max(1, CHUNK_BYTES // (4 * J.shape[-1] ** 2 * J.element_size()))
    setting, row = which.nonzero(as_tuple=True)
    return [((s, r), J[s]) for s, r in zip(setting.split(most), row.split(most), strict=True) if len(s)]


def _ramped(J: Tensor, drive: Tensor, kappa: float, kerr: float) -> Tensor:
    """Raise the drives (rows, N) from 0 to their full size, in as few steps as Newton's method follows safely."""
    a, reached = torch.zeros_like(drive), drive.real.new_zeros(len(drive))
    step = torch.ones_like(reached)
    while bool((reached < 1).any()):
        rows = (reached < 1).nonzero().squeeze(1)
        goal = (reached[rows] + step[rows]).clamp_max(1.0)
        found, safe = _newton(a[rows], J[rows], goal[:, None] * drive[rows], kappa, kerr)
        safe &= _stable(found, J[rows], kappa, kerr, safe & (step[rows] <= WATCHED))
        a[rows[safe]], reached[rows[safe]] = found[safe], goal[safe]
        step[rows[~safe]] /= 2
        if float(step.min()) < SHORTEST:
            row = int(step.argmin())
            raise ReadingError(
                f"the modes do not settle: above {float(reached[row]):.3g} of the drive of a row, their steady state "
                "ends or loses its stability (bistability, oscillation); lower the drive or the Kerr coefficient"
            )
    return a


def _newton(a: Tensor, J: Tensor, drive: Tensor, kappa: float, kerr: float) -> tuple[Tensor, Tensor]:
    """Newton's method from a (rows, N), and in which rows (rows,) it stays on the branch of the start.

    From a steady state under a weaker drive, the first step goes along the tangent of the branch. The state stays on
    the branch as long as the later steps shrink.
    """

    def advance(a: Tensor) -> Tensor:
        residual = kappa / 2 * a + 1j * (_apply(J, a) + kerr * _power(a) * a) + math.sqrt(kappa) * drive
        return a - _solve(_jacobian(a, J, kappa, kerr), residual)

    return _contracted(advance, a, _eps(a) ** (2 / 3))  # quadratic: the next step would be rounding


def _stable(a: Tensor, J: Tensor, kappa: float, kerr: float, watched: Tensor) -> Tensor:
    """In which rows small deviations die out: those in which they must, and of the others those that are `watched`."""
    # The part of the Jacobian that could feed a deviation has the norm g |a|²; below κ/2, damping wins.
    stable = kerr * _power(a).amax(1) < kappa / 2
    doubtful = (watched & ~stable).nonzero().squeeze(1)
    if len(doubtful):
        rates = torch.linalg.eigvals(_jacobian(a[doubtful], J[doubtful], kappa, kerr)).real
        stable[doubtful] = rates.amin(1) > 0
    return stable


def _rates(J: Tensor, kappa: float) -> Tensor:
    """`κ/2 + i J` (S, N, N)."""
    return torch.complex(torch.eye(J.shape[-1], dtype=J.dtype, device=J.device).mul(kappa / 2).expand_as(J), J)


def _jacobian(a: Tensor, J: Tensor, kappa: float, kerr: float) -> Tensor:  # (rows, 2N, 2N)
    """`∂(Re F, Im F)/∂(Re a, Im a)` of `F = κ a/2 + i J a + i g |a|² a + √κ in`."""
    own, other = 2 * kerr * _power(a), kerr * a * a
    turn = J + torch.diag_embed(own)
    even, odd = torch.diag_embed(other.imag), torch.diag_embed(other.real)
    loss = torch.eye(J.shape[-1], dtype=J.dtype, device=J.device) * (kappa / 2)
    above = torch.cat((loss - even, odd - turn), -1)
    below = torch.cat((turn + odd, loss + even), -1)
    return torch.cat((above, below), -2)


def _apply(J: Tensor, a: Tensor) -> Tensor:
    return torch.complex((J @ a.real.unsqueeze(-1)).squeeze(-1), (J @ a.imag.unsqueeze(-1)).squeeze(-1))


def _power(a: Tensor) -> Tensor:
    return a.real.square() + a.imag.square()


def _eps(a: Tensor) -> float:
    return torch.finfo(a.real.dtype).eps


def _solve(matrix: Tensor, field: Tensor) -> Tensor:
    """The fields z (rows, N) of `matrix (Re z, Im z) = (Re field, Im field)`; not finite where there is none."""
    real, imaginary = torch.linalg.solve_ex(matrix, torch.cat((field.real, field.imag), -1))[0].chunk(2, -1)
    return torch.complex(real, imaginary)
