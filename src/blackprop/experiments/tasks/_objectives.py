"""What a network's output is trained for, and what it is worth."""

from __future__ import annotations

import abc
import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


class Objective(abc.ABC):
    """Subclasses are frozen dataclasses. `metric` names the one of the `scores` that methods are compared by."""

    metric: str
    higher_is_better: bool

    @abc.abstractmethod
    def loss(self, output: Tensor, y: Tensor) -> Tensor:
        """What is minimised: a scalar, the mean over the batch."""

    @abc.abstractmethod
    def tally(self, output: Tensor, y: Tensor) -> Tensor:
        """What the scores are made of, float64: it adds up over batches and over processes."""

    @abc.abstractmethod
    def scores(self, tally: Tensor) -> dict[str, float]:
        """The scores of all that was tallied."""


@dataclass(frozen=True)
class Classification(Objective):
    """Cross-entropy of logits `(B, C)` against class numbers; the tally is the confusion matrix, rows the truth.

    `accuracy` is the share of right answers; `f1` the mean over the classes of `2 tp / (2 tp + fp + fn)`, a class that
    was neither met nor answered left out.
    """

    label_smoothing: float = 0.0

    metric = "accuracy"
    higher_is_better = True

    def loss(self, output: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(output, y, label_smoothing=self.label_smoothing)

    def tally(self, output: Tensor, y: Tensor) -> Tensor:
        return confusion(output, y)

    def scores(self, tally: Tensor) -> dict[str, float]:
        return {"accuracy": float(tally.trace() / tally.sum()), "f1": macro_f1(tally)}


@dataclass(frozen=True)
class NextToken(Objective):
    """Cross-entropy of logits `(B, T, V)` against the next tokens `(B, T)`, in nats a token; `perplexity = e^loss`."""

    metric = "validation_loss"
    higher_is_better = False

    def loss(self, output: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(output.flatten(0, -2).float(), y.flatten().long())

    def tally(self, output: Tensor, y: Tensor) -> Tensor:
        return torch.stack((self.loss(output, y).double() * y.numel(), torch.tensor(y.numel()).to(output).double()))

    def scores(self, tally: Tensor) -> dict[str, float]:
        loss = float(tally[0] / tally[1])
        return {"validation_loss": loss, "perplexity": math.exp(min(loss, 700.0))}  # a larger one overflows


def confusion(output: Tensor, y: Tensor) -> Tensor:
    """How often the class of a row was answered by that of a column: (C, C), float64."""
    classes = output.shape[1]
    pairs = y.long() * classes + output.argmax(1)
    return torch.bincount(pairs, minlength=classes**2).view(classes, classes).double()


def macro_f1(confusion: Tensor) -> float:
    """The mean over the classes of `2 tp / (2 tp + fp + fn)`, of those that were met or answered."""
    met = confusion.sum(0) + confusion.sum(1)
    return float((2 * confusion.diagonal()[met > 0] / met[met > 0]).mean())
