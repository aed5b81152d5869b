"""Rules of a matrix fitted to rows and readings: the size of a correction, and the memory of earlier batches."""

from __future__ import annotations

import abc
from dataclasses import dataclass

import torch
from torch import Tensor

from blackprop.core._declaration import Declaration
from blackprop.errors import ArgumentError, IncompatibleError

Memory = dict[str, Tensor]


class Rule(abc.ABC):
    """`Â += Eᵀ (X P Xᵀ + ρ I)⁻¹ X P` for residuals E = Y − X Âᵀ.

    Rules differ in P `(d_in, d_in)`, the remaining uncertainty of Â, from I (unknown) to 0 (known). ρ is the variance
    of a reading's noise in that measure. Every rule is stable for all data, as `0 ≤ P ≤ I`: residuals are never
    overcorrected.
    """

    def check(self, spec: Declaration) -> None:
        """Raise `IncompatibleError` if this rule cannot serve the device."""
        del spec

    @abc.abstractmethod
    def memory(self, d_in: int) -> Memory:
        """Return the memory before any batch."""

    @abc.abstractmethod
    def step(
        self,
        memory: Memory,
        x: Tensor,  # (B, d_in), B at most d_in
        residual: Tensor,  # (B, d_out)
        noise: float,  # ρ, above 0
    ) -> tuple[Tensor, Memory]:
        """Return the change of Â (d_out, d_in), and the memory after it, without changing the arguments."""


@dataclass(frozen=True)
class Projection(Rule):
    """P = I for every batch, the affine projection: the nearest matrix that explains the batch. Has no memory."""

    def memory(self, d_in: int) -> Memory:
        del d_in
        return {}

    def step(self, memory: Memory, x: Tensor, residual: Tensor, noise: float) -> tuple[Tensor, Memory]:
        L = _root(x @ x.mT, noise)
        whitened = torch.linalg.solve_triangular(L.mT, residual.mT, upper=True, left=False)  # three times as fast
        return torch.linalg.solve_triangular(L, whitened, upper=False, left=False) @ x, memory  # from the right


@dataclass(frozen=True)
class Recursive(Rule):
    """Recursive least squares: `P⁻¹ += Xᵀ X / ρ` for a batch, and `P ← λ P + (1 − λ) I` before the next one.

    Knowledge is forgotten towards the ridge and never beyond it, so P cannot wind up along directions that the data do
    not excite; there it is I, as in the projection, which is λ = 0. Along excited directions, with e the eigenvalue of
    `Xᵀ X`, a batch corrects the part `g ≈ √((1 − λ) e / ρ)` of an error, and of read noise σ² the variance `g σ² / ((2
    − g) e)` remains. Strong directions follow fast and weak ones average long, as in the Kalman filter of a matrix that
    moves equally everywhere. **Memory** d_in² numbers, time `4 B d_in²`.

    Measured on a microring bank 784→128 that Adam moves, MNIST rows: cosine of the input gradient 0.992 against 0.985
    of the projection without noise (ridge 1e-3), 0.859 (λ = 0.98) against 0.827 with 10 % read noise (ridge 1). Hybrid
    MNIST trains to the same accuracy with either.

    **Arguments:**

    - `forgetting` (default 0.9): λ a step, from 0 to below 1.

    Also known as stabilised linear forgetting.
    """

    forgetting: float = 0.9

    def __post_init__(self) -> None:
        _check_forgetting(self, self.forgetting)

    def memory(self, d_in: int) -> Memory:
        return {"P": torch.eye(d_in)}

    def step(self, memory: Memory, x: Tensor, residual: Tensor, noise: float) -> tuple[Tensor, Memory]:
        P, kept = memory["P"], self.forgetting
        told = torch.addmm(x, x, P, beta=1 - kept, alpha=kept)  # X P (B, d_in), P as it is before this batch
        change, factor = _corrected(told, x, residual, noise)
        left = torch.addmm(P, factor, factor.mT, beta=kept, alpha=-1)
        left = (left + left.mT).div_(2)  # rounding would add up over thousands of steps
        left.diagonal().add_(1 - kept)
        return change, {"P": left}


@dataclass(frozen=True)
class LowRankRecursive(Rule):
    """`Recursive` with `P = I − W diag(k) Wᵀ`: the `rank` best-known directions W `(d_in, rank)`, with their known
    parts k.

    `k ← λ k` forgets. The directions are the leading right singular vectors of `[√(k/(1−k)) Wᵀ; X/√ρ]`. Directions that
    are cut off count as unknown: too low a rank averages less but does not bias, and a rank that the data do not exceed
    gives the result of `Recursive`. **Memory** d_in·rank numbers, time `6 d_in (rank + B)²`: for d_in far above rank +
    B.

    **Arguments:**

    - `rank`: at most d_in.
    - `forgetting` (default 0.9): λ a step, from 0 to below 1.
    """

    rank: int
    forgetting: float = 0.9

    def __post_init__(self) -> None:
        _check_forgetting(self, self.forgetting)
        if self.rank < 1:
            raise ArgumentError(f"`LowRankRecursive(rank=...)` must be at least 1, got {self.rank}")

    def check(self, spec: Declaration) -> None:
        if self.rank > spec.d_in:
            raise IncompatibleError(f"`LowRankRecursive(rank={self.rank})` is above d_in = {spec.d_in} of {spec.name}")

    def memory(self, d_in: int) -> Memory:
        return {"W": torch.zeros(d_in, self.rank), "known": torch.zeros(self.rank)}

    def step(self, memory: Memory, x: Tensor, residual: Tensor, noise: float) -> tuple[Tensor, Memory]:
        W, known = memory["W"], self.forgetting * memory["known"]
        told = x - (x @ W * known) @ W.mT  # X P (B, d_in)
        change, _ = _corrected(told, x, residual, noise)
        stacked = torch.cat((W * (known / (1 - known)).sqrt(), x.mT / noise**0.5), 1)
        basis, s, _ = torch.linalg.svd(stacked, full_matrices=False)
        power = s[: self.rank].square()
        return change, {"W": basis[:, : self.rank].contiguous(), "known": power / (1 + power)}


def _corrected(told: Tensor, x: Tensor, residual: Tensor, noise: float) -> tuple[Tensor, Tensor]:
    """Return the change of Â, and the factor F (d_in, B) with `P_after = P − F Fᵀ`, from told = X P."""
    L = _root(told @ x.mT, noise)
    factor, whitened = (
        torch.linalg.solve_triangular(L.mT, part.mT, upper=True, left=False) for part in (told, residual)
    )
    return whitened @ factor.mT, factor


def few_equations(x: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]:
    """Return equivalent rows and residuals, at most as many as inputs: rotating a batch leaves white noise white."""
    if len(x) <= x.shape[1]:
        return x, residual
    rotation, x = torch.linalg.qr(x)
    return x, rotation.mT @ residual


def _root(gram: Tensor, noise: float) -> Tensor:
    """Return the Cholesky factor of `gram + noise`; the noise is at least the rounding error of a Gram matrix."""
    rounding = 4 * len(gram) * torch.finfo(gram.dtype).eps * float(gram.diagonal().max())
    gram.diagonal().add_(max(noise, rounding))
    return torch.linalg.cholesky(gram)


def _check_forgetting(rule: Rule, value: float) -> None:
    if not 0 <= value < 1:
        raise ArgumentError(f"`{type(rule).__name__}(forgetting=...)` must be at least 0 and below 1, got {value}")
