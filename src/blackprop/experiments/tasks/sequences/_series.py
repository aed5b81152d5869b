"""Time series that reservoirs are measured on: recurrences, equations and channels drawn from a generator, and files.

All are float32, (sequences, steps). Where a target belongs to a step, a network that has seen the inputs up to and with
that step can know it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from blackprop.errors import ArgumentError, DataError
from blackprop.experiments.records._text_files import finite_number, read_lines

REDRAWS = 100  # of the inputs of NARMA sequences that diverge, until it is their length that is to blame
MEMORY = 10  # steps that NARMA-10 looks back
TAU = 17.0  # of Mackey-Glass, where it is mildly chaotic
SYMBOLS = (-3.0, -1.0, 1.0, 3.0)
CHANNEL = (0.08, -0.12, 1.0, 0.18, -0.1, 0.091, -0.05, 0.04, 0.03, 0.01)  # of the symbols d(t + 2) to d(t − 7)
AHEAD = 2  # symbols that the channel's first tap looks ahead, so the equaliser answers as much later


def narma10(sequences: int, steps: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Inputs `u(t) ~ U(0, ½)` and targets `y(t+1) = 0.3 y(t) + 0.05 y(t) Σ_{i<10} y(t−i) + 1.5 u(t−9) u(t) + 0.1`.

    The recurrence can run away. A sequence whose y passes 1, of 200 steps one in some hundreds, has its inputs drawn
    anew.
    """
    u = torch.rand(sequences, steps + MEMORY, generator=generator, dtype=torch.float64) / 2
    for _ in range(REDRAWS):
        y = _narma10(u)
        bad = ~(y.abs() <= 1).all(1)  # so that what is not a number is bad too
        if not bad.any():
            return u[:, MEMORY:].float(), y[:, MEMORY:].float()
        u[bad] = torch.rand(int(bad.sum()), u.shape[1], generator=generator, dtype=torch.float64) / 2
    raise ArgumentError(f"NARMA-10 diverges in all of {REDRAWS} draws of {steps} steps; ask for shorter sequences")


def _narma10(u: Tensor) -> Tensor:
    """y(t+1) at place t, after y = 0 and u = 0."""
    past = [torch.zeros_like(u[:, 0])] * MEMORY  # y(t−9) … y(t)
    before = torch.cat((torch.zeros_like(u[:, : MEMORY - 1]), u), 1)  # u(t−9) at place t
    for t in range(u.shape[1]):
        y = past[-1]
        past.append(0.3 * y + 0.05 * y * sum(past[-MEMORY:]) + 1.5 * before[:, t] * u[:, t] + 0.1)
    return torch.stack(past[MEMORY:], 1)


def mackey_glass(
    sequences: int, steps: int, generator: torch.Generator, *, substeps: int = 10, transient: int = 500
) -> Tensor:
    """`ẋ = 0.2 x(t−τ) / (1 + x(t−τ)¹⁰) − 0.1 x`, τ = 17, a value each unit of time, as `tanh(x − 1)`.

    By Runge-Kutta steps of fourth order, `substeps` a unit; the delayed value between two of them is that of the cubic
    with their values and slopes. Each sequence begins with a constant past, `1.2 + U(−0.2, 0.2)`, and loses its first
    `transient` units.
    """
    start = 1.2 + 0.4 * (torch.rand(sequences, generator=generator, dtype=torch.float64) - 0.5)
    x = integrate_mackey_glass(start.numpy(), transient + steps - 1, substeps)
    return torch.from_numpy(np.tanh(x[transient:].T - 1)).float()


def integrate_mackey_glass(start: np.ndarray, units: int, substeps: int) -> np.ndarray:
    """Values at the times 0, 1, …, `units`, (units + 1, sequences), after x = `start` (sequences,) for all t ≤ 0."""
    h, lag = 1 / substeps, round(TAU * substeps)
    x = np.empty((units * substeps + 1, len(start)))
    slope = np.empty_like(x)
    x[0] = start

    def change(x: np.ndarray, delayed: np.ndarray) -> np.ndarray:
        return 0.2 * delayed / (1 + delayed**10) - 0.1 * x

    def middle(i: int) -> np.ndarray:
        """The delayed value half a step after the i-th; within a step, for slopes may jump between two."""
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
    """What a nonlinear channel makes of random symbols ±1, ±3 (Jaeger and Haas, 2004), and the symbols two steps ago.

    `q(t) = Σ_i c_i d(t + 2 − i)` over the ten taps `CHANNEL`; `u = q + 0.036 q² − 0.011 q³ + noise`, whose power is
    `snr` decibels below that of the undisturbed u.
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
    """Fair bits, 0 and 1."""
    return torch.randint(2, (sequences, steps), generator=generator).float()


def read_series(path: Path) -> Tensor:
    """The numbers of a text file, one a line, float32 (steps,)."""
    values = []
    for number, line in enumerate(read_lines(path), start=1):
        if text := line.strip():
            value = finite_number(text)
            if value is None:
                raise DataError(f"{path} holds {text[:40]!r} in line {number}, which is no finite number")
            values.append(value)
    if not values:
        raise DataError(f"{path} holds no number")
    return torch.tensor(values)


def windows(series: Tensor, length: int, stride: int) -> Tensor:
    """Windows of `length` every `stride` steps, (count, length); what is left over is left out."""
    return series.unfold(0, length, stride)
