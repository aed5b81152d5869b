"""The loops over cells and trains, compiled by Numba. Imported by `_compiled` alone, once they are needed.

The slots in which a line fires are bits of a number, and its sign is bit 63: two lines coincide in the bits of their
conjunction. A cell passes its trains in order, so that it stays in a register.
"""

from __future__ import annotations

from typing import Any

import numba  # pyright: ignore[reportMissingImports]
import numpy as np
from numba.core import types  # pyright: ignore[reportMissingImports]
from numba.extending import intrinsic  # pyright: ignore[reportMissingImports]

OPTIONS: dict[str, Any] = {"error_model": "numpy", "nogil": True, "cache": True}
AFFINE, MULTIPLICATIVE, EXPONENTIAL, POWER, PIECEWISE = range(5)
SIGN = np.uint64(1 << 63)
SLOTS = np.uint64((1 << 63) - 1)
STRIDE = np.uint64(0x9E3779B97F4A7C15)
SURE = 6.0  # as `AffineCell`

# Layers of equal area under the normal density. Source: Doornik, "An improved ziggurat method" (2005).
LAYERS, START, AREA = 128, 3.442619855899, 9.91256303526217e-3


def _layers() -> tuple[np.ndarray, np.ndarray]:
    x = np.zeros(LAYERS + 1)
    f = np.exp(-0.5 * START * START)
    x[0], x[1] = AREA / f, START
    for i in range(2, LAYERS):
        x[i] = np.sqrt(-2 * np.log(AREA / x[i - 1] + f))
        f = np.exp(-0.5 * x[i] * x[i])
    return x, x[1:] / x[:-1]


EDGES, RATIOS = _layers()


@intrinsic
def ones(context, number):  # pragma: no cover  # it runs in the compiler
    """Count the bits of a number."""
    del context
    return number(types.uint64), lambda _, builder, signature, arguments: builder.ctpop(arguments[0])


@numba.njit(**OPTIONS)
def mixed(z):
    """64 random bits from a number of a sequence. Source: Steele, Lea and Flood, OOPSLA (2014)."""
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


@numba.njit(**OPTIONS)
def uniform(s):
    """A number from 0 to 1, and the next state."""
    s += STRIDE
    return np.float64(mixed(s) >> np.uint64(11)) * 1.1102230246251565e-16, s


@numba.njit(**OPTIONS)
def _rare(s, layer, u):
    """A normal number where its layer alone does not decide, or nan to draw again; and the next state."""
    if layer == 0:
        while True:
            a, s = uniform(s)
            b, s = uniform(s)
            x, y = np.log(1 - a) / START, np.log(1 - b)
            if -2 * y >= x * x:
                return (x - START if u < 0 else START - x), s
    x = u * EDGES[layer]
    high = np.exp(-0.5 * (EDGES[layer] * EDGES[layer] - x * x))
    low = np.exp(-0.5 * (EDGES[layer + 1] * EDGES[layer + 1] - x * x))
    a, s = uniform(s)
    return (x if low + a * (high - low) < 1 else np.nan), s


@numba.njit(**OPTIONS)
def normal(s):
    """A standard normal number, and the next state."""
    while True:
        s += STRIDE
        z = mixed(s)
        layer = z & np.uint64(127)
        u = np.float64(z >> np.uint64(11)) * 2.220446049250313e-16 - 1
        if abs(u) < RATIOS[layer]:
            return u * EDGES[layer], s
        found, s = _rare(s, np.int64(layer), u)
        if not np.isnan(found):
            return found, s


@numba.njit(**OPTIONS)
def fire(trains, first, last, state, out):
    """Draw the slots in which the lines first to last fire, into out (lines, trains)."""
    s = state[0]
    for t in range(trains.shape[0]):
        slots = np.int64(trains[t, -1])
        for line in range(first, last):
            chance = trains[t, line]
            found = np.uint64(0)
            if chance != 0:
                p = abs(np.float64(chance))
                for slot in range(slots):
                    u, s = uniform(s)
                    if u < p:
                        found |= np.uint64(1) << np.uint64(slot)
                if chance < 0 and found:
                    found |= SIGN
            out[line - first, t] = found
    state[0] = s


@numba.njit(inline="always", **OPTIONS)
def interpolated(nodes, place):
    along = min(max(place, 0.0), 1.0) * (len(nodes) - 1)
    left = min(int(along), len(nodes) - 2)
    return nodes[left] + (nodes[left + 1] - nodes[left]) * (along - left)


@numba.njit(**OPTIONS)
def clipped(w, low, high):
    return min(max(w, low), high)


@numba.njit(**OPTIONS)
def pulses(kind, n, sign, w, low, high, size, slope, sigma, power, factor, rate, floor, lean, nodes, s):
    """The weight after n pulses of one direction, and the next state: `slope` of an affine step, `power` of one that
    is a power, `factor` and `rate` of one that is exponential, `nodes` of one that is interpolated.
    """
    if kind == AFFINE:
        for _ in range(n):
            z, s = normal(s)
            w = clipped(w + sign * (size + slope * w + sigma * z), low, high)
    elif kind == MULTIPLICATIVE:
        for _ in range(n):
            z, s = normal(s)
            w = clipped(w + sign * (size + slope * w) * (1 + sigma * z), low, high)
    elif kind == EXPONENTIAL:
        for _ in range(n):
            z, s = normal(s)
            mean = size * max(1 - factor * np.exp(rate * w), 0.0)
            w = clipped(w + sign * (mean + sigma * (floor + mean + lean * abs(w)) * z), low, high)
    elif kind == POWER:
        bound, scale = (high if sign > 0 else low), 1 / max(high - low, 1e-12)
        for _ in range(n):
            z, s = normal(s)
            w = clipped(w + sign * size * min(abs(bound - w) * scale, 1.0) ** power * (1 + sigma * z), low, high)
    else:
        scale = 1 / max(high - low, 1e-12)
        for _ in range(n):
            z, s = normal(s)
            w = clipped(w + sign * size * interpolated(nodes, (w - low) * scale) * (1 + sigma * z), low, high)
    return w, s


@numba.njit(**OPTIONS)
def affine(w, rows, columns, up, down, rise, fall, above, below, out):
    """Mean and variance after all trains, the extreme means and the largest variance, as if without bounds."""
    mean, variance = w, 0.0
    out[2], out[3], out[4] = w, w, 0.0
    for t in range(len(rows)):
        n = ones(rows[t] & columns[t] & SLOTS)  # pyright: ignore[reportCallIssue]
        if n == 0:
            continue
        if (rows[t] ^ columns[t]) & SIGN:
            size, slope, spread = -down, -fall, below
        else:
            size, slope, spread = up, -rise, above
        square, keep = spread * spread, (1 + slope) * (1 + slope)
        for _ in range(n):
            mean += size + slope * mean
            variance = variance * keep + square
        out[2], out[3], out[4] = max(out[2], mean), min(out[3], mean), max(out[4], variance)
    out[0], out[1] = mean, variance


@numba.njit(**OPTIONS)
def move(  # noqa: PLR0912  # one pass over each cell
    w, touched, rows, columns, kind, low, high, up, down, extra, par, rising, falling, state
):
    """Move the cells w (rows, columns), flat, by the lines' slots (rows, trains) and (columns, trains)."""
    width, count = columns.shape
    active, mine = np.empty(count, np.int64), np.empty(count, np.uint64)
    theirs, out, s = np.empty((width, count), np.uint64), np.empty(5), state[0]
    for i in range(rows.shape[0]):
        some = 0
        for t in range(count):
            if rows[i, t] & SLOTS:
                active[some], mine[some] = t, rows[i, t]
                some += 1
        if some == 0:
            continue
        if some < count:
            for j in range(width):
                for k in range(some):
                    theirs[j, k] = columns[j, active[k]]
        for j in range(width):
            cell = i * width + j
            line = columns[j] if some == count else theirs[j, :some]
            here, start = np.float64(w[cell]), np.float64(w[cell])
            if kind == AFFINE:
                affine(
                    start, mine[:some], line, up[cell], down[cell],
                    extra[0, cell], extra[1, cell], extra[2, cell], extra[3, cell], out,
                )  # fmt: skip
                reach = SURE * np.sqrt(out[4])
                if out[2] + reach <= high[cell] and out[3] - reach >= low[cell]:
                    z, s = normal(s)
                    w[cell] = out[0] + np.sqrt(out[1]) * z
                    touched[cell] |= out[4] > 0 or out[2] != out[3]
                    continue
            floor, ceiling, moves = np.float64(low[cell]), np.float64(high[cell]), False
            span, slope, sigma, power = max(ceiling - floor, 1e-12), 0.0, par[0], 1.0
            for k in range(some):
                n = ones(mine[k] & line[k] & SLOTS)  # pyright: ignore[reportCallIssue]
                if n == 0:
                    continue
                moves = True
                rises = ((mine[k] ^ line[k]) & SIGN) == 0
                if kind <= MULTIPLICATIVE:
                    slope = -extra[0, cell] if rises else extra[1, cell]
                    if kind == AFFINE:
                        sigma = extra[2, cell] if rises else extra[3, cell]
                elif kind == POWER:
                    power = extra[0, cell] if rises else extra[1, cell]
                side, size = (0, up[cell]) if rises else (1, down[cell])
                here, s = pulses(
                    kind, n, 1.0 if rises else -1.0, here, floor, ceiling, np.float64(size),
                    slope, sigma, power, par[1 + side], par[3 + side] / span, par[5], par[6],
                    rising if rises else falling, s,
                )  # fmt: skip
            touched[cell] |= moves
            w[cell] = here
    state[0] = s
