"""The linear readout of classical reservoir computing: ridge regression in closed form."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from blackprop.errors import ArgumentError, ShapeError

PENALTIES = tuple(10.0**k for k in range(-10, 3))


@dataclass(frozen=True, eq=False)
class Ridge:
    """A fitted readout `ŷ = X Wᵀ + b`."""

    weight: Tensor  # (K, features), float64
    bias: Tensor  # (K,)
    penalty: float
    """λ, as a multiple of the mean square of the centred features."""

    def __call__(self, x: Tensor) -> Tensor:
        return x.double() @ self.weight.mT + self.bias

    @torch.no_grad()
    def write(self, readout: nn.Linear) -> None:
        """Copy the weights to `readout`."""
        readout.weight.copy_(self.weight)
        readout.bias.copy_(self.bias)


@torch.no_grad()
def fit(x: Tensor, y: Tensor, penalties: tuple[float, ...] = PENALTIES) -> Ridge:
    """Fit the readout that minimises `Σ|y − ŷ|² + n λ |W|²` for features `x` (..., features) and targets `y` (..., K).

    Each of `penalties` times the mean square of the features (centred, mean over features) is tried as λ. The one with
    the least leave-one-out error is used. The error of row i is `(y_i − ŷ_i) / (1 − h_i)`, with `h` the diagonal of the
    hat matrix, so one eigendecomposition serves all rows and all λ.
    """
    if x.shape[:-1] != y.shape[:-1]:
        raise ShapeError(f"features of shape {tuple(x.shape)} do not match targets of shape {tuple(y.shape)}")
    if not penalties or not all(penalty > 0 for penalty in penalties):
        raise ArgumentError(f"`fit(penalties=...)` must be positive numbers, got {penalties}")
    x, y = x.double().flatten(0, -2), y.double().flatten(0, -2)
    if len(x) < 2:
        raise ShapeError(f"the fit of a readout needs two rows of features, got {len(x)}")
    mean_x, mean_y = x.mean(0), y.mean(0)
    x, y = x - mean_x, y - mean_y
    values, vectors = torch.linalg.eigh(x.mT @ x)
    values = values.clamp(min=0)
    unit = float(values.mean()) or 1.0
    turned = x @ vectors
    found = turned.mT @ y  # (features, K)

    def left_out(penalty: float) -> float:
        shrunk = 1 / (values + penalty * unit)
        hat = turned.square() @ shrunk + 1 / len(x)
        error = (y - turned @ (shrunk.unsqueeze(1) * found)) / (1 - hat).clamp(min=1e-12).unsqueeze(1)
        return float(error.square().sum())

    penalty = min(penalties, key=left_out)
    weight = (vectors @ (found / (values + penalty * unit).unsqueeze(1))).mT
    return Ridge(weight, mean_y - weight @ mean_x, penalty)
