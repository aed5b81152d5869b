"""A few rows of training and their readings, by which a loaded checkpoint is compared with the device it finds."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

KEPT = 4  # rows of the latest batch
DECAY = 0.98  # per batch, of the largest residual: it reaches back over some fifty batches
SLACK = 0.05  # relative difference that is always allowed


class AnswerMemory:
    """The first `KEPT` rows of the latest training batch, their setting and readings, and the usual residual.

    The residual of a batch is `‖y − ŷ‖/‖y‖`, ŷ being the surrogate's prediction. The usual one is the largest of the
    last batches. A residual above `2 · usual + 0.05` is a reason to ask the device again for the rows kept here.
    """

    def __init__(self) -> None:
        self.x: Tensor | None = None
        self.y: Tensor | None = None
        self.setting: Tensor | None = None
        """None where it is the setting that the surrogate stands for."""
        self.usual: float | None = None
        self.unconfirmed = False
        """Whether the device has not been compared since a checkpoint was loaded."""

    def keep(self, x: Tensor, y: Tensor, setting: Tensor) -> None:
        self.x, self.y, self.setting = x[:KEPT].detach().clone(), y[:KEPT].detach().clone(), setting

    def saw(self, residual: float) -> None:
        residual = residual if math.isfinite(residual) else 0.0
        self.usual = residual if self.usual is None else max(residual, DECAY * self.usual)

    def doubts(self, residual: float) -> bool:
        return self.usual is not None and residual > 2 * self.usual + SLACK

    def differs(self, again: Tensor, noise: float) -> float | None:
        """The relative difference of the readings `again` from those kept; None where noise explains it."""
        assert self.y is not None
        difference = float((again - self.y.to(again)).norm() / self.y.norm().clamp_min(torch.finfo(again.dtype).tiny))
        return difference if difference > SLACK + 3 * noise else None

    def state_dict(self, known: Tensor | None) -> dict[str, Any]:
        """The state to save; without the setting where that is `known`, which is saved elsewhere."""
        elsewhere = known is not None and self.setting is not None and torch.equal(self.setting, known)
        return {"x": self.x, "y": self.y, "setting": None if elsewhere else self.setting, "usual": self.usual}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.x, self.y, self.setting = (state[name] for name in ("x", "y", "setting"))
        self.usual = None if state["usual"] is None else float(state["usual"])  # a tensor in states of before
        self.unconfirmed: bool = True
