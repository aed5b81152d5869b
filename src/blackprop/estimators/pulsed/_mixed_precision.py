"""Mixed precision: the gradient is added up digitally, and whole pulses are sent."""

from __future__ import annotations

import torch
from torch import Tensor

from blackprop.core._declaration import Declaration
from blackprop.core._procedure import Procedure
from blackprop.core.capabilities._pulse import Pulse
from blackprop.estimators.pulsed._base import PulsedUpdate, whole


class MixedPrecision(PulsedUpdate):
    """`χ ← χ − α Σ_b g_b x_bᵀ` in digital memory; the main tile gets `n = trunc(χ/g)` pulses, and `χ ← χ − n g`.

    `χ + g · pulses` is exactly the sum of all steps, so rounding never adds up; the error of the pulses does, and the
    next gradients see it. The outer products are digital: `B d_in d_out` multiplications a step and d_in d_out numbers
    of memory.

    **Costs** the sum over the columns of the largest |n| in pulses, and no row.

    **Arguments:**

    - `every` (steps, default 1): how often pulses are sent.
    - `most` (default 31): pulses that a cell gets at once; the others wait.

    Source: Nandakumar et al., Front. Neurosci. 14, 406 (2020).
    """

    every: int
    most: int

    chi: Tensor  # (d_out, d_in)

    def __init__(self, every: int = 1, most: int = 31) -> None:
        super().__init__()
        whole(self, every=every, most=most)
        self.every, self.most = every, most

    def _allocate(self, spec: Declaration) -> None:
        self.register_buffer("chi", torch.zeros(spec.d_out, spec.d_in))

    def _update(
        self, x: Tensor, grad_y: Tensor, rate: float, theta: Tensor, spec: Declaration, generator: torch.Generator
    ) -> Procedure[None]:
        del generator
        main, step = len(theta) - 1, spec.capability(Pulse).granularity
        self.chi.addmm_(grad_y.mT.to(self.chi), x.to(self.chi), alpha=-rate * float(theta[main]))
        if (self.steps + 1) % self.every:
            return
        counts = (self.chi / step).trunc().clamp(-self.most, self.most)
        if bool(counts.any()):
            yield [self._counted(main, counts.to(theta), theta, spec)]
            self.chi -= step * counts
