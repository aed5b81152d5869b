"""The gain that brings the readings of a device to the scale that networks are made for."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.distributed import get_world_size, is_available, is_initialized

from blackprop.errors import BlackpropWarning

LOW, HIGH = 0.01, 100.0  # root mean squares of readings that are left as they are
DARK = 1e-6  # the rounding error of a device whose initial reading is zero


class OutputScale:
    """Sets a layer's gain at its first reading in training, where the readings are far from 1: `gain = 1 / rms(y)`.

    Readings whose root mean square is from 0.01 to 100 are left as they are, and so is a gain that is not 1 any more or
    is not trained. The gain becomes a power of two, so that readings are scaled without rounding. Readings below 1e-6
    may be those of a device that starts dark: they are skipped, and the next ones are used. Return readings in
    units in which they are larger, as µA and not A. Decided once; it is part of the layer's state.

    Where several processes train one model, their batches differ and the gain would too: it is left as it is, with a
    `BlackpropWarning` that tells the value to set.
    """

    decided: bool

    def __init__(self) -> None:
        self.decided = False
        self.rms: float | None = None
        """The root mean square of the readings that the gain was set for."""

    @torch.no_grad()
    def see(self, y: Tensor, gain: Tensor, name: object) -> None:
        """Look at readings y of a training pass; may change the gain."""
        if self.decided:
            return
        rms = float(y.double().square().mean().sqrt())
        if rms < DARK:
            return
        self.decided = True
        if LOW <= rms <= HIGH or float(gain.detach()) != 1 or not gain.requires_grad:
            return
        wanted = 2.0 ** -round(math.log2(rms))
        if is_available() and is_initialized() and get_world_size() > 1:
            warnings.warn(
                f"{name} reads {rms:.3g} on average, where networks expect about 1: set `layer.gain.data.fill_"
                f"({wanted:g})` in all processes before training",
                BlackpropWarning,
                stacklevel=2,
            )
            return
        self.rms = rms
        gain.data.fill_(wanted)  # earlier uses in this pass read zeros, whose gradients hold for any gain

    def state_dict(self) -> dict[str, Any]:
        return {"decided": self.decided, "rms": self.rms}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.decided, self.rms = bool(state["decided"]), state["rms"]

    def __repr__(self) -> str:
        return "" if self.rms is None else f"gain set at the first reading, whose root mean square was {self.rms:.3g}"
