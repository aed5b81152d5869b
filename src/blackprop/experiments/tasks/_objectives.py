"""Objectives: the loss that training minimises, and the scores of a network's output."""

from __future__ import annotations

import abc
import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


class Objective(abc.ABC):
    """The loss and the scores of a task. Subclasses are frozen dataclasses.

    - `metric`: the name of the score by which methods are compared.
    - `higher_is_better`: whether a higher score is better.

    ```python
    @dataclass(frozen=True)
    class Regression(Objective):
        metric: ClassVar[str] = "mse"
        higher_is_better: ClassVar[bool] = False

        def loss(self, output, y):
            return F.mse_loss(output, y)

        def tally(self, output, y):
            squares = (output - y).double().square()
            return torch.stack([squares.sum(), squares.new_tensor(squares.numel())])

        def scores(self, tally):
            return {"mse": float(tally[0] / tally[1])}
    ```
    """

    metric: str
    higher_is_better: bool

    @abc.abstractmethod
    def loss(self, output: Tensor, y: Tensor) -> Tensor:
        """Return the loss to minimise: a scalar, the mean over the batch."""

    @abc.abstractmethod
    def tally(self, output: Tensor, y: Tensor) -> Tensor:
        """Return the sums from which scores are computed, float64. Tallies of batches and processes are added."""

    @abc.abstractmethod
    def scores(self, tally: Tensor) -> dict[str, float]:
        """Return the scores by name, from the sum of all tallies."""


@dataclass(frozen=True)
class Classification(Objective):
    """Cross-entropy of logits `(B, C)` and class numbers `(B,)`. The tally is the confusion matrix, its rows the true
    classes.

    Scores: `accuracy` is the share of correct classes. `f1` is the mean over the classes of `2 tp / (2 tp + fp + fn)`,
    without classes that neither occur nor are predicted.

    - `label_smoothing` (default 0): as in `torch.nn.functional.cross_entropy`.
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
    """Cross-entropy of logits `(B, T, V)` and the next tokens `(B, T)`, in nats per token; `perplexity = e^loss`."""

    metric = "validation_loss"
    higher_is_better = False

    def loss(self, output: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(output.flatten(0, -2).float(), y.flatten().long())

    def tally(self, output: Tensor, y: Tensor) -> Tensor:
        return torch.stack((self.loss(output, y).double() * y.numel(), torch.tensor(y.numel()).to(output).double()))

    def scores(self, tally: Tensor) -> dict[str, float]:
        loss = float(tally[0] / tally[1])
        return {"validation_loss": loss, "perplexity": math.exp(min(loss, 700.0))}  # a larger loss overflows


def confusion(output: Tensor, y: Tensor) -> Tensor:
    """Return the confusion matrix (C, C), float64: rows are the true classes, columns the predicted ones."""
    classes = output.shape[1]
    pairs = y.long() * classes + output.argmax(1)
    return torch.bincount(pairs, minlength=classes**2).view(classes, classes).double()


def macro_f1(confusion: Tensor) -> float:
    """Return the mean of `2 tp / (2 tp + fp + fn)` over the classes that occur or are predicted."""
    met = confusion.sum(0) + confusion.sum(1)
    return float((2 * confusion.diagonal()[met > 0] / met[met > 0]).mean())
