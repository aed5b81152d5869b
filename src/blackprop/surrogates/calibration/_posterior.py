"""The curves of some elements, as far as their samples tell."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from blackprop.surrogates.calibration._waves import slopes, waves


@dataclass(frozen=True)
class Posterior:
    """Normal distributions of the curves of E elements, by the columns of `waves`.

    Elements of the same row have the same samples and the same covariance. There are R rows: the groups of a sweep, or
    the elements themselves.
    """

    curves: Tensor  # (E, n): the means, in the frame of the phase
    phase: Tensor  # (R,): turns that are added to those of the range
    left: Tensor  # (R, n, q): a factor of the covariance that an element's own samples leave
    shared: Tensor  # (R or 1, n, q): a factor of the covariance of errors that all elements share
    off: Tensor  # (E, K): by how much a sample is off when it is left out, squared, over its variance
    wrong: Tensor  # (E,): the mean square of the former, before the division
    score: Tensor  # (E,): the log-likelihood of the samples, each when it is left out
    row: Tensor  # (E,): the row of each element
    group: Tensor  # (R,): the group of the sweep that a row is of
    turns: Tensor  # (R, K): where the samples are
    noise: float
    """The variance of a sample about its curve."""
    harmonics: int
    even: bool
    beyond: tuple[float, float] = (0.0, 0.0)
    """The variance of a coefficient of the last order, and its decay from order to order beyond."""

    @property
    def mistaken(self) -> float:
        """The mean square by which samples that are left out are off, and three standard errors of it."""
        return float(self.wrong.mean() + 3 * self.wrong.std(correction=0) / math.sqrt(len(self.wrong)))

    def waves(self, turns: Tensor) -> Tensor:
        """The columns (R, m, n) at `turns` (R, m) of the range."""
        return waves(turns + self.phase[:, None], self.harmonics, self.even)

    def slopes(self, turns: Tensor) -> Tensor:
        """The derivatives (R, m, n) of `waves`, per turn."""
        return slopes(turns + self.phase[:, None], self.harmonics, self.even)

    def mean(self, columns: Tensor) -> Tensor:
        """The means (E, m) of `columns` (R, m, n) times the coefficients."""
        return (columns[self.row] @ self.curves[..., None])[..., 0]

    def variances(self, columns: Tensor) -> tuple[Tensor, Tensor]:
        """Their variances (R, m): left by the element's own samples, and shared."""
        left, shared = ((columns @ factor).square().sum(2) for factor in (self.left, self.shared))
        return left, shared

    def variance(self, columns: Tensor) -> Tensor:
        """The sum (R, m) of both."""
        left, shared = self.variances(columns)
        return left + shared

    def tail(self, smoothing: Callable[[Tensor, bool], Tensor]) -> Tensor:
        """The variances (S,) of the mean slopes that `smoothing` makes, by orders beyond those that are held."""
        last, decay = self.beyond
        further = torch.arange(1, 3 * self.harmonics + 1, dtype=torch.float64, device=self.curves.device)
        order = self.harmonics + further
        power = (1 if self.even else 2) * last * decay**further * (2 * math.pi * order).square()
        return (smoothing(order, self.even).square() * power).sum(1)


def left_out(errors: Tensor, variance: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """`off`, `wrong` and `score` by the errors (E, K) of samples that are left out, and the variances of these."""
    square = errors.square()
    off = square / variance
    return off, square.mean(1), -0.5 * (off + variance.log()).sum(1)


def better_of(one: Posterior, other: Posterior, margin: float) -> Posterior:
    """Each element's curve of `one`; or of `other`, where that is less wrong about samples that are left out and makes
    them likelier, the logarithm of their likelihood being greater by more than `margin`.
    """
    chosen = (other.wrong < one.wrong) & (other.score > one.score + margin)

    def each(name: str) -> Tensor:
        pair = [getattr(part, name) for part in (other, one)]
        if name in ("left", "shared"):
            width = max(part.shape[-1] for part in pair)
            pair = [torch.nn.functional.pad(part, (0, width - part.shape[-1])) for part in pair]
        if name in ("phase", "left", "shared", "turns", "group"):
            pair = [
                part[posterior.row] if len(part) > 1 else part.expand(len(chosen), *part.shape[1:])
                for part, posterior in zip(pair, (other, one), strict=True)
            ]
        return torch.where(chosen.view(-1, *[1] * (pair[0].dim() - 1)), *pair)

    names = ("curves", "phase", "left", "shared", "off", "wrong", "score", "turns", "group")
    return replace(one, row=torch.arange(len(chosen), device=chosen.device), **{name: each(name) for name in names})
