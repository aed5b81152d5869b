"""The protocol of tasks: data, a network with devices, an objective and a schedule."""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from blackprop.experiments.tasks._objectives import Objective

MakeLayer = Callable[[int, int], nn.Module]  # (d_in, d_out) -> the layer at this position
Schedules = list[tuple[Optimizer, LRScheduler]]


class Size(enum.Enum):
    """`PUBLISHED`: the published network and schedule, for a GPU. `SMALL`: the same code, reduced for two CPU cores."""

    PUBLISHED = "published"
    SMALL = "small"


@dataclass(frozen=True, eq=False)
class Data:
    """Rows and their targets, in one split for every seed. Tensors may have any dtype, and may be memory-mapped.

    - `x_train`, `x_test`: rows (N, *in_shape). The network converts them to the dtype it needs.
    - `y_train`, `y_test`: targets: class numbers (N,), next tokens (N, T) or values.
    - `classes` (default: none): the names of the classes, by number.
    """

    x_train: Tensor  # (N, *in_shape)
    y_train: Tensor  # (N,), class numbers; (N, T), the next tokens
    x_test: Tensor  # (N_test, *in_shape)
    y_test: Tensor
    classes: tuple[str, ...] = ()


class Task(Protocol):
    """Data, a network with devices, and how it is trained. Implementations are frozen dataclasses whose fields are
    their settings; `Digits` is the shortest example.

    - `name`: the task's name in files.
    - `batch_size`: rows per optimizer step.
    - `objective`: the loss and the scores.
    """

    @property
    def name(self) -> str: ...
    @property
    def batch_size(self) -> Any:  # int; tasks in which it may be None replace that by their default
        """Rows per optimizer step, over all processes. Rows that do not fill a batch are left out of the epoch."""
        ...

    @property
    def objective(self) -> Objective: ...

    def data(self) -> Data: ...

    def steps(self, rows: int) -> int:
        """Return the optimizer steps of a run on `rows` training rows."""
        ...

    def segment(self, rows: int) -> int:
        """Return the optimizer steps between two evaluations, usually an epoch. Each evaluation adds a line of metrics
        and a checkpoint.
        """
        ...

    def build(self, layer: Callable[[Any, Any], nn.Module], seed: int) -> nn.Module:
        """Build the network, with `layer(d_in, d_out)` at the position of each device.

        The digital weights depend only on `seed`. If a row of a device is a sequence, `d_in` and `d_out` are shapes
        `(time, channels)`.
        """
        ...

    def augment(self, x: Tensor, y: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return a training batch with augmentation. `x` may be on an accelerator; the generator is on the CPU."""
        ...

    def optimizers(self, model: nn.Module, steps: int) -> Schedules:
        """Return optimizers for all trainable parameters, each with its schedule over `steps` steps.

        Schedules are updated after each step; a `ReduceLROnPlateau` after each evaluation, with its score. One of the
        optimizers holds the θ of the devices.
        """
        ...
