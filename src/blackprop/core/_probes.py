"""Rows that a device takes, in place of those that a method wants: signed products from inputs that have limits.

A method that learns a linear device `f(x) = A x` wants the answers `Z Aᵀ` to signed rows Z. Where inputs have limits,
other rows X are sent and the answers are decoded. Random rows for a device of any kind are moved into the limits.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from blackprop.core._declaration import Declaration


@dataclass(frozen=True, eq=False)
class Probes:
    """The rows X that are sent, and the decoder D with `D X = Z`: `Z Aᵀ = D f(X)` on a linear device.

    **Arguments:**

    - `rows`: X (n, d_in).
    - `weights` (default None, the answers are the products): `c Dᵀ` (n, k).
    - `divisor` (default 1): c.
    - `block` (default None): the size of the diagonal blocks outside of which rows and weights are zero.
    - `signs` (default None): σ (d_in,), where each block of the weights is `√c · hartley(n) diag(σ)`: a product with it
      is a fast transform.
    """

    rows: Tensor
    weights: Tensor | None = None
    divisor: float = 1.0
    block: int | None = None
    signs: Tensor | None = None

    def products(self, y: Tensor) -> Tensor:
        """`Z Aᵀ` (..., k, d_out) of the readings y (..., n, d_out)."""
        return y if self.weights is None else self.weights.mT @ y / self.divisor

    @property
    def blur(self) -> float:
        """The standard deviation that read noise of 1 leaves in a product, at most."""
        return 1.0 if self.weights is None else float(self.weights.norm(dim=0).max()) / self.divisor

    def matrix(self, y: Tensor) -> Tensor:
        """`A Zᵀ` (..., d_out, k) of the readings y (..., n, d_out); of spanning rows, whose Z is the identity, A."""
        if self.weights is None or self.block is None or y.dim() > 2:
            return y.mT if self.weights is None else y.mT @ self.weights / self.divisor
        found = y.new_empty(y.shape[1], self.weights.shape[1])
        for at in range(0, len(y), self.block):
            some = slice(at, at + self.block)
            if self.signs is None or at + self.block > len(y):
                torch.mm(y[some].mT, self.weights[some, some], out=found[:, some])
            else:
                _transform(y[some].mT.contiguous(), found[:, some])
                found[:, some] *= self.signs[some] * math.sqrt(self.divisor)
        return found.div_(self.divisor)

    def cotangents(self, w: Tensor) -> Tensor:
        """Those of the readings (n, d_out) that stand for w (k, d_out) of the products: `⟨w, Z Aᵀ⟩ = ⟨·, f(X)⟩`."""
        return w if self.weights is None else self.weights @ w / self.divisor


def signed(spec: Declaration, rows: Tensor) -> Probes:
    """Probes for the products of signed rows (k, d_in).

    Where all of them are within the limits, they are sent as they are. Otherwise row i is `m + s_i z_i`, the largest
    multiple s_i ≤ 1 that fits about the middle m, and m itself is sent first, once: `(f(x_i) − f(m)) / s_i`. Read noise
    of variance σ² leaves `(1 + 1) σ²/s_i²` in a product, the second σ² common to all.
    """
    if _fits(spec, rows):
        return Probes(rows)
    low, high = spec.x_range
    peaks = rows.abs().amax(1)
    scale = ((high - low) / 2 / peaks.clamp_min(torch.finfo(rows.dtype).tiny)).clamp_max(1)
    middle = _middle(spec, float((scale * peaks).max()))
    base = torch.full_like(rows[:1], middle)
    sent = torch.cat((base, middle + scale[:, None] * rows)).clamp(low, high)
    return Probes(sent, torch.cat((-(1 / scale)[None], (1 / scale).diag())))


def hartley(size: int, like: Tensor) -> Tensor:
    """The orthogonal, symmetric matrix `(cos + sin)(2πij / n) / √n` of a size n: entries of at most √2 times their root
    mean square.
    """
    at = torch.arange(size, device=like.device)
    angle = (2 * math.pi / size) * ((at[:, None] * at) % size).double()
    return ((angle.cos() + angle.sin()) / math.sqrt(size)).to(like)


def _transform(rows: Tensor, out: Tensor) -> None:
    """Write `rows @ hartley(n)` of rows (·, n) into `out`, by a fast Fourier transform."""
    size = rows.shape[1]
    found, half = torch.fft.rfft(rows, norm="ortho"), size // 2 + 1
    torch.sub(found.real, found.imag, out=out[:, :half])
    out[:, half:] = (found.real + found.imag)[:, 1 : size - half + 1].flip(1)


def spanning(
    spec: Declaration,
    rows: Tensor,
    power: float,
    amplitude: float,
    block: int | None = None,
    signs: Tensor | None = None,
) -> Probes:
    """Probes for the matrix of a device: Z = I.

    Where the inputs have no limits, `rows` (n, d_in) are sent, for which `rowsᵀ rows = power · I`. They are zero
    outside diagonal blocks of the size `block`, if it is given, and are made with `signs` as those of `Probes`, if they
    are given. Where the inputs have limits, the rows are the two-level rows `m ± h` of a quadratic-residue S-matrix, h
    the `amplitude` (root mean square of the entries) as far as it fits and m as near to 0 as it can be. They are as
    many as the first prime p ≥ d_in of the form 4k + 3, and read noise of variance σ² leaves at most `2 σ² / (p + 1)
    h²` in an element: for inputs in [0, 1] about 4 σ²/p, where unit rows leave σ². Source: Harwit and Sloane, Hadamard
    Transform Optics, 1979.
    """
    if not spec.x_limited:
        return Probes(rows, rows, power, block, signs)
    low, high = spec.x_range
    d = spec.d_in
    p = order(d)
    h = min(amplitude, (high - low) / 2)
    m = _middle(spec, h)
    # X = ±(|m| + h S) with S of ±1: SᵀS = (p + 1) I − J and Sᵀ1 = 1, so that XᵀX = a I + b J.
    side = -1.0 if m < 0 else 1.0
    X = (m + side * h * _signs(p, d, rows)).clamp(low, high)
    a, b = h * h * (p + 1), m * m * p + 2 * abs(m) * h - h * h
    return Probes(X, X - b / (a + b * d) * X.sum(1, keepdim=True), a)


def spanning_count(spec: Declaration) -> int:
    """How many rows span the inputs: d_in, or where they have limits a few more."""
    return order(spec.d_in) if spec.x_limited else spec.d_in


def within(spec: Declaration, x: Tensor) -> Tensor:
    """Random rows x (..., *in_shape), normal or alike, as a device takes them.

    Themselves where all are within the limits. Otherwise `m + h erf(x / √2 r)` with r their root mean square, uniform
    for normal ones, and as wide as they are, `h = √3 r`, as far as that fits.
    """
    if _fits(spec, x):
        return x
    low, high = spec.x_range
    size = float(x.square().mean().sqrt())
    h = min(math.sqrt(3) * size, (high - low) / 2)
    m = _middle(spec, h)
    return (m + h * torch.erf(x / (math.sqrt(2) * size or 1.0))).clamp(low, high)


def combination(spec: Declaration, x: Tensor, z: Tensor) -> tuple[float, float]:
    """Factors a and b for which `a x + b z` is within the limits; a + b ≠ 1, unless no others are, shows an offset."""
    low, high = spec.x_range
    for a, b in ((0.6, -0.4), (0.6, 0.3), (0.7, 0.5)):
        both = a * x + b * z
        if bool(((both >= low) & (both <= high)).all()):
            return a, b
    return 0.6, 0.4


def order(size: int) -> int:
    """The first prime of the form 4k + 3 that is at least `size`."""
    p = max(3, size + (3 - size) % 4)
    while any(p % q == 0 for q in range(3, math.isqrt(p) + 1, 2)):
        p += 4
    return p


def _fits(spec: Declaration, x: Tensor) -> bool:
    if not spec.x_limited or not x.numel():
        return True
    low, high = spec.x_range
    least, most = x.aminmax()
    return bool((least >= low) & (most <= high))


def _middle(spec: Declaration, h: float) -> float:
    """The number nearest to 0 with room for h to either side."""
    low, high = spec.x_range
    if high - low <= 2 * h:
        return (low + high) / 2
    return min(max(0.0, low + h), high - h)


def _signs(p: int, size: int, like: Tensor) -> Tensor:
    """`S_ij = 1` where j − i is a square modulo p, 0 included, and −1 elsewhere, the first `size` columns."""
    squares = torch.full((p,), -1.0, dtype=like.dtype, device=like.device)
    squares[torch.arange(p, device=like.device).square() % p] = 1.0
    column = torch.arange(size, device=like.device)
    return squares[(column - torch.arange(p, device=like.device)[:, None]) % p]
