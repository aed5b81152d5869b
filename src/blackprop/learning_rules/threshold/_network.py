"""A network of one layer of steps, which is a black box, and a digital sum of its outputs."""

from __future__ import annotations

import warnings
from typing import Any, final

import numpy as np
import torch
from torch import Tensor, nn

from blackprop.core._budget import Budget
from blackprop.core._ledger import Ledger
from blackprop.core._metered import metered
from blackprop.core._procedure import Procedure, in_rounds, run
from blackprop.core._query import Purpose, Query
from blackprop.devices import Device
from blackprop.errors import ArgumentError, CalibrationWarning, ShapeError
from blackprop.learning_rules.threshold._lasso import lasso

FLIPS = 0.02  # of the entries of the kept patterns: more that differ at a second reading are reported


@final
class ThresholdNetwork(nn.Module):
    """`y = b + Σ_j w_j 1{f_j(x) ≥ t}`: outputs f_j of a device at several of its settings, a step, and a digital sum.

    `fit` solves

    `min over w of ½ |D w − y|² + β |w|₁`, D (n, P): the distinct patterns of steps over the n training rows.

    The patterns are **measured**: the device is set to random settings and its readings are compared with the
    threshold. Neither a gradient nor a model of the device is needed. The problem is convex, so its solution is the
    global optimum over all weights and over all choices among the measured patterns. With all patterns that the device
    can produce it is the global optimum of the network; a sample of them gives an upper bound of that, which falls as
    more are measured. Only the settings with a weight are kept, at most n + 1 patterns for an output.

    **Costs** `settings` programmings of n rows each (`CALIBRATE`), and as much for each kept setting, which is read a
    second time. To predict: a programming for each kept setting, and a row for each sample there (`EVALUATE`).

    **Arguments:**

    - `device`: reads vectors. Steps of its own, as comparators of 0 and 1, suit a threshold of 1/2.
    - `threshold` (in units of the readings, default 0): t.
    - `budget` (default None): as for a layer.

    After `fit`: `patterns`, the number of distinct ones; `kept`, that of the settings in use; `objective`, the minimum,
    summed over the outputs; `flips`, the part of the entries of the kept patterns that differ at the second reading;
    `ledger`.

    Source: Ergen, Gulluk, Lacotte, Pilanci, arXiv 2303.03382.

    >>> import blackprop as bp
    >>> device = bp.devices.LightModulator(3, 4)
    >>> x = torch.randn(20, 3, generator=torch.Generator().manual_seed(0))
    >>> y = x[:, :1].sign()
    >>> network = bp.learning_rules.ThresholdNetwork(device)
    >>> network.fit(x, y, settings=40, penalty=0.01, generator=torch.Generator().manual_seed(1))
    >>> bool((network(x).sign() == y).all())
    True
    """

    settings: Tensor
    outputs: Tensor
    weights: Tensor
    bias: Tensor

    def __init__(self, device: Device, *, threshold: float = 0.0, budget: Budget | None = None) -> None:
        super().__init__()
        spec = device.declaration
        if not spec.of_vectors:
            raise ShapeError(f"`ThresholdNetwork(device)` takes a device of vectors, got {spec.name}")
        self.device = device
        self.threshold = float(threshold)
        self.budget = budget
        self.ledger = Ledger()
        self.patterns, self.objective, self.flips = 0, float("nan"), 0.0
        self.register_buffer("settings", torch.zeros(0, spec.theta.size))
        self.register_buffer("outputs", torch.zeros(0, 2, dtype=torch.int64))  # of each weight: its setting and output
        self.register_buffer("weights", torch.zeros(0, 0))
        self.register_buffer("bias", torch.zeros(0))

    @property
    def kept(self) -> int:
        return len(self.settings)

    @torch.no_grad()
    def fit(
        self, x: Tensor, y: Tensor, *, settings: int, penalty: float, generator: torch.Generator | None = None
    ) -> None:
        """Measure patterns and solve the convex problem for each column of y.

        - `x` (n, d_in), `y` (n, outputs): the training rows and targets, as one-hot codes.
        - `settings`: number of random settings; each gives d_out patterns. With equal generators, the settings of a
          smaller number are the first of a larger one.
        - `penalty` (in units of y, > 0): β. The source takes 0.001 n.
        - `generator` (default: seed 0): draws the settings, uniform within the device's limits or its period.

        **Raises** `ArgumentError` for a penalty that is not positive, `BudgetExhausted`, and `BlackpropError` where
        SciPy is missing. **Warns** `CalibrationWarning` if readings repeat badly.
        """
        if not penalty > 0 or settings < 1:
            raise ArgumentError(
                f"`fit(settings=..., penalty=...)` takes a positive number of each, got {settings} and {penalty}"
            )
        if y.dim() != 2 or len(y) != len(x):
            raise ShapeError(f"`fit(x, y)` takes a row of y for each row of x, got {tuple(x.shape)}, {tuple(y.shape)}")
        drawn = self._drawn(settings, x, generator or torch.Generator().manual_seed(0))
        steps = self._steps(x, drawn, Purpose.CALIBRATE)  # (settings, n, d_out)
        columns, places = _distinct(steps.transpose(1, 2).flatten(0, 1).cpu().numpy())
        self.patterns = columns.shape[1]
        targets = y.double().cpu().numpy()
        dressed = np.hstack([np.ones((len(x), 1)), columns])
        found = np.stack([lasso(dressed, target, penalty) for target in targets.T], axis=1)  # (1 + patterns, outputs)
        errors = dressed @ found - targets
        self.objective = float(0.5 * np.square(errors).sum() + penalty * np.abs(found).sum())
        self._keep(drawn, places, found, x)
        self._check(x, columns[:, np.abs(found[1:]).sum(1) > 0])

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs (rows, outputs) for rows x (rows, d_in)."""
        return self.bias + self._own_steps(x, Purpose.EVALUATE).to(self.weights) @ self.weights

    def _load_from_state_dict(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, state_dict: dict[str, Tensor], prefix: str, *rest: Any
    ) -> None:
        for name in ("settings", "outputs", "weights", "bias"):  # as many as the saved network has
            if prefix + name in state_dict:
                setattr(self, name, torch.empty_like(state_dict[prefix + name]).to(getattr(self, name).device))
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def _own_steps(self, x: Tensor, purpose: Purpose) -> Tensor:
        """Measure the kept patterns (rows, weights)."""
        if not len(self.bias):
            raise ArgumentError("this `ThresholdNetwork` is not trained: call `fit(x, y, ...)` first")
        if not len(self.settings):
            return torch.zeros(len(x), 0, dtype=torch.bool)
        steps = self._steps(x, self.settings.to(x), purpose)
        return steps[self.outputs[:, 0], :, self.outputs[:, 1]].T

    def _steps(self, x: Tensor, settings: Tensor, purpose: Purpose) -> Tensor:
        """Measure the steps (settings, rows, d_out)."""

        def procedure() -> Procedure[list[Tensor]]:
            return (
                yield from in_rounds([Query(x, theta, purpose) for theta in settings], self.device.declaration.d_out)
            )

        readings = run(procedure(), metered(self.device, self.ledger, self.budget))
        return torch.stack([reading >= self.threshold for reading in readings])

    def _drawn(self, count: int, x: Tensor, generator: torch.Generator) -> Tensor:
        spec = self.device.declaration.theta
        start = spec.draw(generator).to(x)
        if spec.period is not None and not spec.limited:
            low, high = torch.zeros_like(start), torch.full_like(start, spec.period)
        else:
            low, high = spec.range_around(start)
        place = generator.device
        drawn = [torch.rand(start.shape, generator=generator, device=place).to(start) for _ in range(count)]
        return low + (high - low) * torch.stack(drawn)

    def _keep(self, drawn: Tensor, places: np.ndarray, found: np.ndarray, x: Tensor) -> None:
        used = np.flatnonzero(np.abs(found[1:]).sum(1) > 0)
        where = torch.from_numpy(places[used])
        numbers, outputs = where // self.device.declaration.d_out, where % self.device.declaration.d_out
        kept, setting_of = numbers.unique(return_inverse=True)
        self.settings = drawn[kept.to(drawn.device)]
        self.outputs = torch.stack([setting_of, outputs], 1).to(x.device)
        self.weights = torch.from_numpy(found[1:][used]).to(x)
        self.bias = torch.from_numpy(found[0]).to(x)

    def _check(self, x: Tensor, columns: np.ndarray) -> None:
        again = self._own_steps(x, Purpose.CALIBRATE).cpu().numpy()
        self.flips = float((again != columns.astype(bool)).mean()) if again.size else 0.0
        if self.flips > FLIPS:
            warnings.warn(
                f"{self.flips:.0%} of the steps that the network uses differ at a second reading, so its training "
                "error is larger than the objective says; reduce the noise of the readings, or raise the penalty",
                CalibrationWarning,
                stacklevel=3,
            )


def _distinct(patterns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the distinct patterns as columns (n, P), in the order in which they were found, and the place of each.

    Constant patterns are left out: the bias stands for them.
    """
    packed = np.packbits(patterns, axis=1)
    _, first = np.unique(packed, axis=0, return_index=True)
    first = np.sort(first)
    varied = first[patterns[first].any(1) & ~patterns[first].all(1)]
    return patterns[varied].T.astype(np.float64), varied
