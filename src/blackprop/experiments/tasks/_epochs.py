"""The common parts of tasks that are trained by epochs with Adam."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.optim import Adam
from torch.optim.lr_scheduler import CosineAnnealingLR

from blackprop.experiments.tasks._task import Schedules
from blackprop.nn._substitute import param_groups


class EpochTask:
    """Segments of one epoch, no augmentation, Adam with cosine decay. Subclasses have these four fields."""

    epochs: int
    batch_size: int
    lr: float
    device_lr: float

    def steps(self, rows: int) -> int:
        return self.epochs * self.segment(rows)

    def segment(self, rows: int) -> int:
        """Return the steps of one epoch."""
        return rows // self.batch_size

    def augment(self, x: Tensor, y: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return the rows unchanged."""
        del generator
        return x, y

    def optimizers(self, model: nn.Module, steps: int) -> Schedules:
        """Return Adam with cosine decay to zero for all parameters."""
        return adam_with_cosine(model, self.lr, self.device_lr, steps)


def adam_with_cosine(model: nn.Module, lr: float, device_lr: float, steps: int) -> Schedules:
    """Return Adam at `lr` for the digital parameters and at `device_lr` for θ, both with cosine decay to zero."""
    adam = Adam(param_groups(model, lr=lr, device_lr=device_lr))
    return [(adam, CosineAnnealingLR(adam, T_max=steps))]
