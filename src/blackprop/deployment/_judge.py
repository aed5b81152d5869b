"""Held-out rows that say whether a stage has made a deployed model better."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from blackprop.errors import ArgumentError

SIGMAS = 2.0  # of the difference, which a stage must gain
RowLoss = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Score:
    """The mean loss over the held-out rows, and the accuracy where the targets are classes.

    Without targets the loss is the mean square of the difference from the trained model, relative to its outputs.
    """

    loss: float
    accuracy: float | None = None

    def __str__(self) -> str:
        return f"{self.loss:.4g}" if self.accuracy is None else f"{self.loss:.4g} ({self.accuracy:.1%})"


@dataclass(frozen=True, eq=False)
class Judgement:
    """The losses (rows,) of one evaluation, and the distances (rows,) from the trained model's outputs."""

    losses: Tensor
    distances: Tensor
    accuracy: float | None = None

    @property
    def score(self) -> Score:
        return Score(float(self.losses.mean()), self.accuracy)

    def beats(self, other: Judgement) -> bool:
        """Whether the loss or the distance is lower by more than two standard errors of the difference, row by row.

        A lower distance alone counts where the loss is not higher by a standard error: few rows tell the distance, and
        many a difference in classes.
        """
        loss, distance = _gained(other.losses, self.losses), _gained(other.distances, self.distances)
        return loss > SIGMAS or (distance > SIGMAS and loss > -1)


def _gained(before: Tensor, after: Tensor) -> float:
    """How much lower the mean is, in standard errors of the difference."""
    gained = before - after
    if not bool(gained.isfinite().all()):
        return math.inf if bool(after.isfinite().all()) else -math.inf
    mean = float(gained.mean())
    error = float(gained.std()) / math.sqrt(len(gained)) if len(gained) > 1 else 0.0
    return mean / error if error else math.copysign(math.inf, mean) if mean else 0.0


@dataclass(frozen=True, eq=False)
class Judge:
    """Rows x and targets, the reference outputs, and the loss of each row."""

    x: Tensor
    target: Tensor | None
    reference: Tensor
    loss: RowLoss | None = None

    @torch.no_grad()
    def verdict(self, model: nn.Module) -> Judgement:
        """Send the rows through the model in `eval()`."""
        return self.of(model(self.x))

    def of(self, output: Tensor) -> Judgement:
        """Judge outputs of the rows."""
        output = output.detach()
        size = self.reference.square().flatten(1).mean().clamp_min(torch.finfo(output.dtype).tiny)
        distances = (output - self.reference).square().flatten(1).mean(1).double().cpu() / float(size)
        if self.target is None:
            return Judgement(distances, distances)
        accuracy = None
        if not self.target.is_floating_point() and output.dim() == self.target.dim() + 1:
            accuracy = float((output.flatten(0, -2).argmax(-1) == self.target.flatten()).double().mean())
        losses = (self.loss or _usual(self.target))(output, self.target)
        if losses.shape[:1] != self.target.shape[:1]:
            raise ArgumentError(
                f"`deploy(loss=...)` returns the loss of each of {len(self.target)} rows, got {tuple(losses.shape)}; "
                'torch\'s losses do so with `reduction="none"`'
            )
        losses = losses.flatten(1).mean(1) if losses.dim() > 1 else losses
        return Judgement(losses.double().cpu(), distances, accuracy)


def _usual(target: Tensor) -> RowLoss:
    """Cross-entropy for classes, the squared difference for numbers."""
    if target.is_floating_point():
        return lambda output, wanted: (output - wanted).square()
    # Classes are the last dimension of the output here, and the second one for torch.
    return lambda output, wanted: nn.functional.cross_entropy(output.movedim(-1, 1), wanted, reduction="none")
