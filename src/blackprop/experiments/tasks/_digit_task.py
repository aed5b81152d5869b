"""The common parts of the two tasks with handwritten digits."""

from __future__ import annotations

from typing import ClassVar

from torch import nn

from blackprop.experiments.tasks._epochs import EpochTask
from blackprop.experiments.tasks._networks import DigitNetwork, build
from blackprop.experiments.tasks._objectives import Classification, Objective
from blackprop.experiments.tasks._task import MakeLayer


class DigitTask(EpochTask):
    """Rows of pixels in [0, 1], ten classes, one of four networks."""

    network: DigitNetwork

    widths: ClassVar[tuple[int, int, int]]
    """The length of a row, and the hidden width of the physical and of the hybrid network."""

    @property
    def objective(self) -> Objective:
        return Classification()

    def build(self, layer: MakeLayer, seed: int) -> nn.Module:
        """Build the network with `layer(d_in, d_out)` for its devices. The digital weights depend only on `seed`."""
        return build(self.network, self.widths, layer, seed)
