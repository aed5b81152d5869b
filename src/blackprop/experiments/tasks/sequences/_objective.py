"""Objectives of sequence tasks: their losses and scores."""

from __future__ import annotations

import abc
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from blackprop.errors import ShapeError
from blackprop.experiments.tasks._objectives import Objective


@dataclass(frozen=True)
class _Squares(Objective, abc.ABC):
    """Mean squared error of outputs `(..., K)` and targets of the same shape. `names` are those of the K outputs."""

    names: tuple[str, ...] = ()

    def loss(self, output: Tensor, y: Tensor) -> Tensor:
        _check(output, y)
        return F.mse_loss(output, y)

    def _named(self, prefix: str, values: Tensor) -> dict[str, float]:
        """Return a score for each output, if the outputs have names."""
        found = zip(self.names, values.tolist(), strict=True) if self.names else ()
        return {f"{prefix}_{name}": value for name, value in found}


@dataclass(frozen=True)
class Regression(_Squares):
    """Mean squared error. `nrmse` is the mean over the outputs of `√(Σ(y − ŷ)² / Σ(y − ȳ)²)`: 0 is perfect, and 1 is
    the error of the mean as prediction. The tally `(4 K,)` is Σ(y − ŷ)², Σy, Σy² and the number of targets for each
    output.
    """

    metric = "nrmse"
    higher_is_better = False

    def tally(self, output: Tensor, y: Tensor) -> Tensor:
        return squares(output, y).flatten()

    def scores(self, tally: Tensor) -> dict[str, float]:
        each = normalised(tally.view(4, -1))
        return {"nrmse": float(each.mean()), **self._named("nrmse", each)}


@dataclass(frozen=True)
class Symbols(_Squares):
    """Mean squared error of one output that represents symbols. `ser`, the symbol error rate, is the share of outputs
    whose nearest symbol is wrong. The tally `(5,)` is that of `Regression` and the number of wrong symbols.
    """

    alphabet: tuple[float, ...] = (-3.0, -1.0, 1.0, 3.0)

    metric = "ser"
    higher_is_better = False

    def tally(self, output: Tensor, y: Tensor) -> Tensor:
        wrong = (nearest(output, self.alphabet) != nearest(y, self.alphabet)).sum()
        return torch.cat((squares(output, y).flatten(), wrong.double().view(1)))

    def scores(self, tally: Tensor) -> dict[str, float]:
        return {"ser": float(tally[4] / tally[3]), "nrmse": float(normalised(tally[:4].view(4, 1)))}


@dataclass(frozen=True)
class Capacity(_Squares):
    """Mean squared error of K outputs, one for each delay. `capacity` is `Σ_k r²(k)`, the squared correlations of
    outputs and targets. The tally `(6 K,)` is n, Σŷ, Σy, Σŷ², Σy², Σŷy for each output.
    """

    metric = "capacity"
    higher_is_better = True

    def tally(self, output: Tensor, y: Tensor) -> Tensor:
        return products(output, y).flatten()

    def scores(self, tally: Tensor) -> dict[str, float]:
        each = squared_correlations(tally.view(6, -1))
        return {"capacity": float(each.sum()), **self._named("r2", each)}


def squares(output: Tensor, y: Tensor) -> Tensor:
    """Return Σ(y − ŷ)², Σy, Σy², n for each output: (4, K), float64."""
    _check(output, y)
    output, y = output.detach().double().flatten(0, -2), y.double().flatten(0, -2)
    values = ((y - output).square(), y, y.square(), torch.ones_like(y))
    return torch.stack([value.sum(0) for value in values])


def normalised(tally: Tensor) -> Tensor:
    """Return `√(Σ(y − ŷ)² / Σ(y − ȳ)²)` of each output, (K,), from its `squares`."""
    error, total, square, count = tally
    return (error / (square - total.square() / count)).sqrt()


def products(output: Tensor, y: Tensor) -> Tensor:
    """Return n, Σŷ, Σy, Σŷ², Σy², Σŷy for each output: (6, K), float64."""
    _check(output, y)
    output, y = output.detach().double().flatten(0, -2), y.double().flatten(0, -2)
    values = (torch.ones_like(y), output, y, output.square(), y.square(), output * y)
    return torch.stack([value.sum(0) for value in values])


def squared_correlations(tally: Tensor) -> Tensor:
    """Return r² of each output, (K,), from its `products`. It is 0 for an output that does not vary."""
    count, a, b, aa, bb, ab = tally
    spread = (aa - a.square() / count) * (bb - b.square() / count)
    return torch.where(spread > 0, (ab - a * b / count).square() / spread, 0.0)


def nearest(values: Tensor, alphabet: tuple[float, ...]) -> Tensor:
    """Return the index in `alphabet` of the symbol nearest to each value."""
    return (values.unsqueeze(-1) - torch.tensor(alphabet).to(values)).abs().argmin(-1)


def _check(output: Tensor, y: Tensor) -> None:
    if output.shape != y.shape:
        raise ShapeError(f"outputs of shape {tuple(output.shape)} do not match targets of shape {tuple(y.shape)}")
