"""The loops over the columns of a mesh, compiled by Numba. Imported by `_mesh` alone, once they are needed.

The field of T rows is kept mode by mode: T real parts, then T imaginary parts. The two modes of a block lie side by
side, so that the distances within a block are constants, and a loop over its rows vectorises without a check for
overlaps. Light meets n even columns of n blocks, and behind each an odd column of n − 1 blocks. The numbers of a block
are those of `_mesh`: cosines p and sines q of (θ, φ), or real parts p and imaginary parts q of (a, b, c, d).
"""

from __future__ import annotations

from typing import Any

import numba  # pyright: ignore[reportMissingImports]
import numpy as np

# Sums over rows may be taken in another order, which vectorises them; infinite and undefined values stay.
OPTIONS: dict[str, Any] = {"fastmath": {"contract", "reassoc", "nsz", "arcp"}, "error_model": "numpy", "nogil": True}
CACHED: dict[str, Any] = {**OPTIONS, "cache": True}


@numba.njit(**OPTIONS)
def interfere(f, p, q, T):
    """Pass the fields f (4 T) of two modes through `[[e^{iθ} sin φ, e^{iθ} cos φ], [cos φ, −sin φ]]`."""
    a, s, u, v = p[0], q[0], p[1], q[1]
    for r in range(T):
        x, y, z, w = f[r], f[T + r], f[2 * T + r], f[3 * T + r]
        g, h = v * x + u * z, v * y + u * w
        f[r], f[T + r] = a * g - s * h, s * g + a * h
        f[2 * T + r], f[3 * T + r] = u * x - v * z, u * y - v * w


@numba.njit(**OPTIONS)
def mix(f, p, q, T):
    """Pass the fields f (4 T) of two modes through any block `[[a, b], [c, d]]`."""
    a, b, c, d = p[0], p[1], p[2], p[3]
    e, g, h, i = q[0], q[1], q[2], q[3]
    for r in range(T):
        x, y, z, w = f[r], f[T + r], f[2 * T + r], f[3 * T + r]
        f[r], f[T + r] = a * x - e * y + b * z - g * w, a * y + e * x + b * w + g * z
        f[2 * T + r], f[3 * T + r] = c * x - h * y + d * z - i * w, c * y + h * x + d * w + i * z


@numba.njit(**OPTIONS)
def uninterfere(f, p, q, out, T):
    """Go back through `interfere`: f (8 T) holds the fields of a mode and their gradients, then those of the other.

    Adds the gradients of θ and φ to out.
    """
    a, s, u, v = p[0], q[0], p[1], q[1]
    dt, dp = np.float32(0), np.float32(0)
    for r in range(T):
        oi, oI, gi, gI = f[r], f[T + r], f[2 * T + r], f[3 * T + r]
        oj, oJ, gj, gJ = f[4 * T + r], f[5 * T + r], f[6 * T + r], f[7 * T + r]
        dt += gI * oi - gi * oI
        x, y, gx, gy = a * oi + s * oI, a * oI - s * oi, a * gi + s * gI, a * gI - s * gi
        dp += gx * oj + gy * oJ - gj * x - gJ * y
        f[r], f[T + r], f[2 * T + r], f[3 * T + r] = v * x + u * oj, v * y + u * oJ, v * gx + u * gj, v * gy + u * gJ
        f[4 * T + r], f[5 * T + r] = u * x - v * oj, u * y - v * oJ
        f[6 * T + r], f[7 * T + r] = u * gx - v * gj, u * gy - v * gJ
    out[0] += dt
    out[1] += dp


@numba.njit(**OPTIONS)
def unmix(f, p, q, out, T):
    """Go back through `mix` of a unitary block, as `uninterfere`; adds the gradients of real and imaginary parts."""
    a, b, c, d = p[0], p[1], p[2], p[3]
    e, g, h, k = q[0], q[1], q[2], q[3]
    zero = np.float32(0)
    ar, ai, br, bi, cr, ci, dr, di = zero, zero, zero, zero, zero, zero, zero, zero
    for r in range(T):
        i, m, j, n = f[r], f[T + r], f[4 * T + r], f[5 * T + r]
        x, y = a * i + e * m + c * j + h * n, a * m - e * i + c * n - h * j
        z, w = b * i + g * m + d * j + k * n, b * m - g * i + d * n - k * j
        i, m, j, n = f[2 * T + r], f[3 * T + r], f[6 * T + r], f[7 * T + r]
        ar += i * x + m * y
        ai += m * x - i * y
        br += i * z + m * w
        bi += m * z - i * w
        cr += j * x + n * y
        ci += n * x - j * y
        dr += j * z + n * w
        di += n * z - j * w
        f[r], f[T + r], f[4 * T + r], f[5 * T + r] = x, y, z, w
        f[2 * T + r], f[3 * T + r] = a * i + e * m + c * j + h * n, a * m - e * i + c * n - h * j
        f[6 * T + r], f[7 * T + r] = b * i + g * m + d * j + k * n, b * m - g * i + d * n - k * j
    out[0] += ar
    out[1] += br
    out[2] += cr
    out[3] += dr
    out[4] += ai
    out[5] += bi
    out[6] += ci
    out[7] += di


def build(T: int, general: bool) -> tuple[Any, Any]:
    """Return the passes forward and backward for T rows at a time, through blocks of `interfere`, or `general` ones."""

    @numba.njit(**CACHED)
    def forward(x, p, q, fields, y, keep):  # noqa: PLR0912
        """Write y (S, rows, d_out), the readings of x (1 or S, rows, d_in).

        Leaves the fields (S, tiles, 2 n · 2 T) behind the mesh if `keep`; otherwise only the first are used.
        """
        n, rows = fields.shape[2] // (4 * T), x.shape[1]
        for s in range(y.shape[0]):
            xs, ps, qs, ys = x[s if x.shape[0] > 1 else 0], p[s], q[s], y[s]
            for first in range(0, rows, T):
                f, here = fields[s, first // T] if keep else fields[0, 0], min(T, rows - first)
                f[:] = 0
                for r in range(here):
                    for j in range(x.shape[2]):
                        f[2 * T * j + r] = xs[first + r, j]
                for c in range(n):
                    for b in range(n):
                        k, at = c * n + b, 4 * T * b
                        if general:
                            mix(f[at : at + 4 * T], ps[k], qs[k], T)
                        else:
                            interfere(f[at : at + 4 * T], ps[k], qs[k], T)
                    for b in range(n - 1):
                        k, at = n * n + c * (n - 1) + b, 4 * T * b + 2 * T
                        if general:
                            mix(f[at : at + 4 * T], ps[k], qs[k], T)
                        else:
                            interfere(f[at : at + 4 * T], ps[k], qs[k], T)
                for r in range(here):
                    for j in range(y.shape[2]):
                        ys[first + r, j] = f[2 * T * j + r]

    @numba.njit(**CACHED)
    def backward(fields, p, q, g, gx, out):  # noqa: PLR0912
        """Add to gx (1 or S, rows, d_in) and to out (S, blocks, 2 or 8) the gradients, from g (S, rows, d_out)."""
        n, rows = fields.shape[2] // (4 * T), g.shape[1]
        f = np.empty(2 * fields.shape[2], np.float32)
        for s in range(g.shape[0]):
            ps, qs, os, gs, xs = p[s], q[s], out[s], g[s], gx[s if gx.shape[0] > 1 else 0]
            for first in range(0, rows, T):
                ended, here = fields[s, first // T], min(T, rows - first)
                for j in range(2 * n):
                    f[4 * T * j : 4 * T * j + 2 * T] = ended[2 * T * j : 2 * T * j + 2 * T]
                    f[4 * T * j + 2 * T : 4 * T * j + 4 * T] = 0
                for r in range(here):
                    for j in range(g.shape[2]):
                        f[4 * T * j + 2 * T + r] = gs[first + r, j]
                for c in range(n - 1, -1, -1):
                    for b in range(n - 1):
                        k, at = n * n + c * (n - 1) + b, 8 * T * b + 4 * T
                        if general:
                            unmix(f[at : at + 8 * T], ps[k], qs[k], os[k], T)
                        else:
                            uninterfere(f[at : at + 8 * T], ps[k], qs[k], os[k], T)
                    for b in range(n):
                        k, at = c * n + b, 8 * T * b
                        if general:
                            unmix(f[at : at + 8 * T], ps[k], qs[k], os[k], T)
                        else:
                            uninterfere(f[at : at + 8 * T], ps[k], qs[k], os[k], T)
                for r in range(here):
                    for j in range(gx.shape[2]):
                        xs[first + r, j] += f[4 * T * j + 2 * T + r]

    return forward, backward
