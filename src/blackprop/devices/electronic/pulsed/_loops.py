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
GENTLE = 0.01  # slope up to which the series of `together` is exact to 1e-5 of a step
SKEW = 0.02  # skewness up to which pulses whose noise scales with the step add up to a normal number
HALF, THIRD, FOURTH, FIFTH, SIXTH = (1 / n for n in range(2, 7))

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
def meetings(rows, columns, i, j, active, some, places, known, out):
    """The signed numbers of pulses of the cell (i, j), in order and without zeros, into out: how many, and their sum.

    `active[i]` lists the `some` trains of the row, and `places[j]` the `known` ones of the column. The shorter list is
    passed.
    """
    found, total = 0, 0
    for k in range(min(some, known)):
        t = active[i, k] if some < known else places[j, k]
        mine, other = rows[i, t], columns[j, t]
        n = np.int64(ones(mine & other & SLOTS))  # pyright: ignore[reportCallIssue]
        out[found] = n * (1 - 2 * np.int64((mine ^ other) >> np.uint64(63)))
        found += n > 0
        total += n
    return found, total


@numba.njit(**OPTIONS)
def together(w, counts, found, up, down, rise, fall, above, below, lean):
    """Mean and variance after all trains, the extreme means and the largest variance, as if without bounds.

    The standard deviation of a step is `above` up and `below` down, and `lean` times the step where it scales with it.
    n pulses multiply the distance to the weight at which steps end by (1 + slope)^n, whose series is taken here.
    """
    mean, variance, most, least, widest = w, 0.0, w, w, 0.0
    for k in range(found):
        n = counts[k]
        if n < 0:
            size, slope, spread = -down, -fall, below
        else:
            size, slope, spread = up, -rise, above
        m = np.float64(abs(n))
        tail = 1 + (m - 4) * FIFTH * slope * (1 + (m - 5) * SIXTH * slope)
        sums = m * (1 + (m - 1) * HALF * slope * (1 + (m - 2) * THIRD * slope * (1 + (m - 3) * FOURTH * slope * tail)))
        first, keep = size + slope * mean, 1 + slope * sums  # keep is (1 + slope)^n
        back = 1 - slope * (1 - slope)  # 1/(1 + slope)
        own = spread * spread * sums * (1 + keep) * HALF * (1 - HALF * slope * (1 - HALF * slope))
        scaled = lean * first * keep * back
        mean += first * sums
        variance = variance * keep * keep + own + m * scaled * scaled
        most, least, widest = max(most, mean), min(least, mean), max(widest, variance)
    return mean, variance, most, least, widest


@numba.njit(**OPTIONS)
def listed(lines, places, lengths):
    """List the trains in which each line (lines, trains) fires, into places; their number into lengths."""
    for j in range(lines.shape[0]):
        some = 0
        for t in range(lines.shape[1]):
            places[j, some] = t
            some += lines[j, t] & SLOTS != 0
        lengths[j] = some


@numba.njit(**OPTIONS)
def move(w, touched, rows, columns, kind, low, high, up, down, extra, par, rising, falling, state):
    """Move the cells w (rows, columns), flat, by the lines' slots (rows, trains) and (columns, trains)."""
    (height, count), width, s = rows.shape, columns.shape[0], state[0]
    active, actives = np.empty((height, count + 1), np.int32), np.empty(height, np.int32)
    places, known = np.empty((width, count + 1), np.int32), np.empty(width, np.int32)
    listed(rows, active, actives)
    listed(columns, places, known)
    counts, lean = np.empty(count + 1, np.int64), par[0] if kind == MULTIPLICATIVE else 0.0
    for i in range(height):
        for j in range(width):
            if actives[i] == 0 or known[j] == 0:
                continue
            found, total = meetings(rows, columns, i, j, active, actives[i], places, known[j], counts)
            if found == 0:
                continue
            cell = i * width + j
            touched[cell] = True
            here, floor, ceiling = np.float64(w[cell]), np.float64(low[cell]), np.float64(high[cell])
            if kind <= MULTIPLICATIVE:
                rise, fall = np.float64(extra[0, cell]), np.float64(extra[1, cell])
                steepest = max(rise, fall)
                if steepest <= GENTLE and 9 * (lean * steepest) ** 2 * total <= SKEW * SKEW:
                    above, below = (0.0, 0.0) if lean else (np.float64(extra[2, cell]), np.float64(extra[3, cell]))
                    mean, variance, most, least, widest = together(
                        here, counts, found, np.float64(up[cell]), np.float64(down[cell]),
                        rise, fall, above, below, lean,
                    )  # fmt: skip
                    reach = SURE * np.sqrt(widest)
                    if most + reach <= ceiling and least - reach >= floor:
                        z, s = normal(s)
                        w[cell] = mean + np.sqrt(variance) * z
                        continue
            span, slope, sigma, power = max(ceiling - floor, 1e-12), 0.0, par[0], 1.0
            for k in range(found):
                n = counts[k]
                rises = n > 0
                if kind <= MULTIPLICATIVE:
                    slope = -extra[0, cell] if rises else extra[1, cell]
                    if kind == AFFINE:
                        sigma = extra[2, cell] if rises else extra[3, cell]
                elif kind == POWER:
                    power = extra[0, cell] if rises else extra[1, cell]
                side, size = (0, up[cell]) if rises else (1, down[cell])
                here, s = pulses(
                    kind, abs(n), 1.0 if rises else -1.0, here, floor, ceiling, np.float64(size),
                    slope, sigma, power, par[1 + side], par[3 + side] / span, par[5], par[6],
                    rising if rises else falling, s,
                )  # fmt: skip
            w[cell] = here
    state[0] = s
