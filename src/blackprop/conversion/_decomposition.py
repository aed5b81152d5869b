"""The decomposition of a matrix for a mesh of interferometers: singular values, then block by block."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

# For amplitudes (a, b), the phases (θ, φ) of the block T with T⁻¹ (a, b)ᵀ ∝ (1, 0)ᵀ; and T itself.
Null = Callable[[complex, complex], tuple[float, float]]
Block = Callable[[float, float], np.ndarray]


def decomposed(wanted: Tensor, modes: int, three_splitters: bool) -> Tensor:
    """Return the phases (P,) of the brick wall M, with `W = |W| Re(M D)` for phases D (N,) before the mesh.

    W (d_out, d_in) is filled up with zeros to N modes; `W / |W| = P S Qᵀ` is the real part of the unitary `U = P (S + i
    √(1 − S²)) Qᵀ`, with |W| the spectral norm. U is decomposed as by Clements et al. (Optica 3, 1460, 2016): its
    elements are nulled one by one from below, by blocks on its rows and its columns in turn, and the remaining diagonal
    is moved to the input. The meshes of the library have no phases there, N too few for every unitary, so D is dropped:
    M is not a solution, but a good starting point.
    """
    d_out, d_in = wanted.shape
    padded = np.zeros((modes, modes))
    padded[:d_out, :d_in] = wanted.double().cpu().numpy()
    p, s, q = np.linalg.svd(padded)
    s = s / s[0]
    unitary = (p * (s + 1j * np.sqrt(np.clip(1 - s * s, 0, 1)))) @ q
    theta, _ = take_apart(unitary, *blocks_of(three_splitters))
    return torch.tensor(theta, dtype=wanted.dtype, device=wanted.device)


def blocks_of(three_splitters: bool) -> tuple[Null, Block]:
    """Return the nulling rule of a block of either mesh, and the block."""
    return (_null_three, _block_three) if three_splitters else (_null_two, _block_two)


def take_apart(unitary: np.ndarray, null: Null, block: Block) -> tuple[np.ndarray, np.ndarray]:
    """Decompose `U = M(θ) diag(D)`: θ (P,) in the order of the meshes, and D (N,)."""
    U, N = unitary.astype(complex), len(unitary)
    outer: list[tuple[int, float, float]] = []  # from the output inwards
    inner: list[tuple[int, np.ndarray]] = []  # from the input inwards
    for i in range(N - 1):
        for j in range(i + 1):
            if i % 2:
                m = N - 2 + j - i
                phases = null(U[m, j], U[m + 1, j])
                U[m : m + 2] = block(*phases).conj().T @ U[m : m + 2]
                outer.append((m, *phases))
            else:
                m = i - j
                u, v = U[N - 1 - j, m : m + 2]
                size = math.hypot(abs(u), abs(v))
                turn = np.array([[v, u.conjugate()], [-u, v.conjugate()]]) / size if size else np.eye(2)
                U[:, m : m + 2] = U[:, m : m + 2] @ turn
                inner.append((m, turn.conj().T))
    D = np.diag(U).copy()
    for m, turn in reversed(inner):  # D · turn = T · D′
        both = D[m : m + 2, None] * turn
        phases = null(both[0, 0], both[1, 0])
        D[m : m + 2] = np.diag(block(*phases).conj().T @ both)
        outer.append((m, *phases))
    return _laid_out(outer[::-1], N), D


def _laid_out(blocks: list[tuple[int, float, float]], modes: int) -> np.ndarray:
    """Place the blocks from the input on, each in the first free column."""
    n = modes // 2
    columns = np.zeros((n, n, 2)), np.zeros((n, n - 1, 2))  # the even ones, the odd ones
    depth = [0] * modes
    for m, *phases in blocks:
        at = max(depth[m], depth[m + 1])
        at += (at - m) % 2  # the outermost modes pass the odd columns
        columns[m % 2][at // 2, m // 2] = phases
        depth[m] = depth[m + 1] = at + 1
    return np.concatenate([each.ravel() for each in columns])


def _angle(z: complex) -> float:
    return math.atan2(z.imag, z.real)


def _null_two(a: complex, b: complex) -> tuple[float, float]:
    return _angle(a) - _angle(b), math.atan2(abs(a), abs(b))


def _block_two(theta: float, phi: float) -> np.ndarray:
    t, s, c = np.exp(1j * theta), math.sin(phi), math.cos(phi)
    return np.array([[t * s, t * c], [c, -s]])


def _null_three(a: complex, b: complex) -> tuple[float, float]:
    # Back through the third splitter; θ gives both arms behind the second as much light, and φ their phase.
    a, b = a - 1j * b, b - 1j * a
    theta = _angle(a) - _angle(b) - math.pi / 2
    a = a * np.exp(-1j * theta)
    return theta, _angle(-1j * (a + b)) - _angle(b - a) - math.pi


def _block_three(theta: float, phi: float) -> np.ndarray:
    p, q = (theta - phi) / 2, (theta + phi) / 2
    (sp, cp), (sq, cq) = ((math.sin(v), math.cos(v)) for v in (p, q))
    bar, cross = np.array([sp + 1j * sq, cp + 1j * cq]), np.array([-cp + 1j * cq, sp - 1j * sq])
    return np.exp(1j * q) / math.sqrt(2) * np.stack((bar, cross), 1)
