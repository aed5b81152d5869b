"""Time series for tests of reservoirs: recurrences, equations and channels drawn from a generator, and files.

All series are float32, (sequences, steps). The target of a step depends only on inputs up to this step.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from blackprop.errors import ArgumentError, DataError
from blackprop.experiments.records._text_files import finite_number, read_lines

REDRAWS = 100  # attempts to draw inputs with which NARMA-10 does not diverge
MEMORY = 10  # past steps in NARMA-10
TAU = 17.0  # delay of Mackey-Glass, mildly chaotic
SYMBOLS = (-3.0, -1.0, 1.0, 3.0)
CHANNEL = (0.08, -0.12, 1.0, 0.18, -0.1, 0.091, -0.05, 0.04, 0.03, 0.01)  # taps of the symbols d(t + 2) to d(t − 7)
AHEAD = 2  # symbols by which the first tap looks ahead; the equaliser is delayed by as many


def narma10(sequences: int, steps: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return inputs u and targets y of NARMA-10,

    `u(t) ~ U(0, ½)`, `y(t+1) = 0.3 y(t) + 0.05 y(t) Σ_{i<10} y(t−i) + 1.5 u(t−9) u(t) + 0.1`.

    The recurrence may diverge. The inputs of a sequence whose y exceeds 1 are drawn again (of sequences with 200 steps,
    one in some hundreds). Raises `ArgumentError` if sequences are so long that all draws diverge.
    """
    u = torch.rand(sequences, steps + MEMORY, generator=generator, dtype=torch.float64) / 2
    for _ in range(REDRAWS):
        y = _narma10(u)
        bad = ~(y.abs() <= 1).all(1)  # also True for NaN
        if not bad.any():
            return u[:, MEMORY:].float(), y[:, MEMORY:].float()
        u[bad] = torch.rand(int(bad.sum()), u.shape[1], generator=generator, dtype=torch.float64) / 2
    raise ArgumentError(f"NARMA-10 diverges in all of {REDRAWS} draws of {steps} steps; use shorter sequences")


def _narma10(u: Tensor) -> Tensor:
    """Return y(t+1) at index t, with y = 0 and u = 0 before the start."""
    past = [torch.zeros_like(u[:, 0])] * MEMORY  # y(t−9) … y(t)
    before = torch.cat((torch.zeros_like(u[:, : MEMORY - 1]), u), 1)  # u(t−9) at index t
    for t in range(u.shape[1]):
        y = past[-1]
        past.append(0.3 * y + 0.05 * y * sum(past[-MEMORY:]) + 1.5 * before[:, t] * u[:, t] + 0.1)
    return torch.stack(past[MEMORY:], 1)


def mackey_glass(
    sequences: int, steps: int, generator: torch.Generator, *, substeps: int = 10, transient: int = 500
) -> Tensor:
    """Return `tanh(x − 1)` once per unit of time, for `ẋ = 0.2 x(t−τ) / (1 + x(t−τ)¹⁰) − 0.1 x` with τ = 17.

    The integration has `substeps` Runge-Kutta steps of fourth order per unit. Cubic interpolation gives the delayed
    value between two steps. Each sequence starts from a constant past, `1.2 + U(−0.2, 0.2)`, and its first `transient`
    units are dropped.
    """
    start = 1.2 + 0.4 * (torch.rand(sequences, generator=generator, dtype=torch.float64) - 0.5)
    x = integrate_mackey_glass(start.numpy(), transient + steps - 1, substeps)
    return torch.from_numpy(np.tanh(x[transient:].T - 1)).float()


def integrate_mackey_glass(start: np.ndarray, units: int, substeps: int) -> np.ndarray:
    """Return x at the times 0, 1, …, `units`, (units + 1, sequences), with x = `start` (sequences,) for all t ≤ 0."""
    h, lag = 1 / substeps, round(TAU * substeps)
    x = np.empty((units * substeps + 1, len(start)))
    slope = np.empty_like(x)
    x[0] = start

    def change(x: np.ndarray, delayed: np.ndarray) -> np.ndarray:
        return 0.2 * delayed / (1 + delayed**10) - 0.1 * x

    def middle(i: int) -> np.ndarray:
        """Return the delayed value half a step after i, from the slopes of that step, which may jump between steps."""
        return (x[i] + x[i + 1]) / 2 + h / 8 * (slope[i] - slope[i + 1]) if i >= 0 else start

    for i in range(len(x) - 1):
        first, last = (x[j] if j >= 0 else start for j in (i - lag, i + 1 - lag))
        halfway = middle(i - lag)
        slope[i] = k1 = change(x[i], first)
        k2 = change(x[i] + h / 2 * k1, halfway)
        k3 = change(x[i] + h / 2 * k2, halfway)
        x[i + 1] = x[i] + h / 6 * (k1 + 2 * k2 + 2 * k3 + change(x[i] + h * k3, last))
    return x[::substeps]


def channel(sequences: int, steps: int, snr: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return the output of a nonlinear channel for random symbols ±1, ±3, and the symbols two steps before.

    `q(t) = Σ_i c_i d(t + 2 − i)` over the ten taps `CHANNEL`, and `u = q + 0.036 q² − 0.011 q³ + noise`. The power of
    the noise is `snr` dB below that of u without noise. Source: Jaeger and Haas, 2004.
    """
    taps = len(CHANNEL)
    alphabet = torch.tensor(SYMBOLS, dtype=torch.float64)
    d = alphabet[torch.randint(len(SYMBOLS), (sequences, steps + taps - 1), generator=generator)]
    kernel = torch.tensor(CHANNEL, dtype=torch.float64).flip(0)
    q = d.unfold(1, taps, 1) @ kernel  # d(t − 7) … d(t + 2)
    u = q + 0.036 * q**2 - 0.011 * q**3
    noise = torch.randn(u.shape, generator=generator, dtype=torch.float64)
    u += u.std() * 10 ** (-snr / 20) * noise
    sent = d[:, taps - 1 - 2 * AHEAD :][:, :steps]  # d(t − 2)
    return u.float(), sent.float()


def bits(sequences: int, steps: int, generator: torch.Generator) -> Tensor:
    """Return fair random bits, 0 and 1."""
    return torch.randint(2, (sequences, steps), generator=generator).float()


def read_series(path: Path) -> Tensor:
    """Return the numbers of a text file with one number per line, float32 (steps,). Raises `DataError` otherwise."""
    values = []
    for number, line in enumerate(read_lines(path), start=1):
        if text := line.strip():
            value = finite_number(text)
            if value is None:
                raise DataError(f"{path} holds {text[:40]!r} in line {number}, which is not a finite number")
            values.append(value)
    if not values:
        raise DataError(f"{path} does not hold a number")
    return torch.tensor(values)


def windows(series: Tensor, length: int, stride: int) -> Tensor:
    """Return the complete windows of `length` steps, one every `stride` steps: (count, length)."""
    return series.unfold(0, length, stride)
