"""The gradient of a device that settles where an energy is least, from its response to small nudges."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from blackprop.core._declaration import Declaration
from blackprop.core._procedure import Procedure
from blackprop.core._query import Purpose, Query
from blackprop.core.capabilities._nudges import Nudges
from blackprop.estimators._base import Nudged


@dataclass(frozen=True)
class EquilibriumPropagation(Nudged):
    """`∂L/∂θ = (1/2β) Σ_b [∂E/∂θ at +β − ∂E/∂θ at −β]`, the device at rest with its energy tilted by `±β ∂L/∂y`.

    For a conductance g it is `(1/4β) [(ΔV^{+β})² − (ΔV^{−β})²]`, of the voltages at its own two ends. The device must
    declare the capability `Nudges`: the energy that each parameter sees. Settings are not written, and the device is
    neither differentiated nor modelled. Error O(β²); with ideal diodes nudged by currents, a centred estimate has no
    error until a diode switches.

    **Costs** 2 rows for each training row, at the setting of the forward pass; one-sided 1 row, against the reading of
    the forward pass, with error O(β).

    **Arguments:**

    - `step` (default 1.0): β, which multiplies `∂L/∂y` as autograd returns it. A loss that is a mean over B rows takes
      B times the β of one that is a sum.
    - `centred` (default True): False for the one-sided form.

    **Raises** `IncompatibleError` for a device without the capability.

    Sources: Scellier and Bengio, arXiv 1602.05179; Kendall et al., arXiv 2006.01981; Laborieux et al., arXiv
    2006.03824.
    """

    def check(self, spec: Declaration) -> None:
        spec.capability(Nudges)

    def grad_theta(
        self, x: Tensor, theta: Tensor, y: Tensor, grad_y: Tensor, spec: Declaration, generator: torch.Generator
    ) -> Procedure[Tensor]:
        del generator
        nudges = spec.capability(Nudges)
        plus, minus, span = yield from self._read(nudges, x, theta, y, grad_y)
        return nudges.contrast(x, plus, minus, span)

    def gradients(
        self, x: Tensor, theta: Tensor, y: Tensor, grad_y: Tensor, spec: Declaration
    ) -> Procedure[tuple[Tensor, Tensor]]:
        """`∂L/∂θ` (P,) and, from the same readings, `∂L/∂x` (B, row), to train the layers before the device."""
        nudges = spec.capability(Nudges)
        plus, minus, span = yield from self._read(nudges, x, theta, y, grad_y)
        return nudges.contrast(x, plus, minus, span), nudges.contrast_rows(theta, plus, minus, span)

    def _read(
        self, nudges: Nudges, x: Tensor, theta: Tensor, y: Tensor, grad_y: Tensor
    ) -> Procedure[tuple[Tensor, Tensor, float]]:
        steps = (self.step, -self.step) if self.centred else (self.step,)
        rows = [nudges.nudged(x, grad_y, step) for step in steps]
        plus, *rest = yield [Query(each, theta, Purpose.PARAMETER, Nudges) for each in rows]
        return (plus, rest[0], 2 * self.step) if rest else (plus, y, self.step)
