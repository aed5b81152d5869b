"""The protocol of tasks: data, a network with places for devices, an objective and a schedule."""

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

MakeLayer = Callable[[int, int], nn.Module]  # (d_in, d_out) -> the layer that stands there
Schedules = list[tuple[Optimizer, LRScheduler]]


class Size(enum.Enum):
    """`PUBLISHED`: the network and the schedule of the publication, for a GPU; `SMALL`: the same code for two cores."""

    PUBLISHED = "published"
    SMALL = "small"


@dataclass(frozen=True, eq=False)
class Data:
    """Rows and their targets, split: the same split for every seed.

    Of any dtype, and as large as memory or a file mapped into it holds; what a network needs of them is its own to
    convert. `classes` names them, where targets are class numbers.
    """

    x_train: Tensor  # (N, *in_shape)
    y_train: Tensor  # (N,), class numbers; (N, T), the next tokens
    x_test: Tensor  # (N_test, *in_shape)
    y_test: Tensor
    classes: tuple[str, ...] = ()


class Task(Protocol):
    """A frozen dataclass whose fields are its settings: data, a network with places for devices, and how it is
    trained.
    """

    @property
    def name(self) -> str: ...
    @property
    def batch_size(self) -> Any:  # int; tasks that take None for that of their size resolve it
        """Rows an optimizer step, over all processes; what is left over of an epoch's shuffled rows is left out."""
        ...

    @property
    def objective(self) -> Objective: ...

    def data(self) -> Data: ...

    def steps(self, rows: int) -> int:
        """Optimizer steps of a run on so many training rows."""
        ...

    def segment(self, rows: int) -> int:
        """Optimizer steps between two evaluations, each with a line of metrics and a checkpoint: an epoch, mostly."""
        ...

    def build(self, layer: Callable[[Any, Any], nn.Module], seed: int) -> nn.Module:
        """The network, its digital weights drawn from `seed` alone, with `layer(d_in, d_out)` wherever a device stands;
        where a row of the device is a sequence, both are shapes `(time, channels)`.
        """
        ...

    def augment(self, x: Tensor, y: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """A training batch as the network sees it. `x` may be on an accelerator; the generator is the CPU's."""
        ...

    def optimizers(self, model: nn.Module, steps: int) -> Schedules:
        """Optimizers over all trainable parameters, each with its schedule over so many steps, stepped after each; a
        `ReduceLROnPlateau` after each evaluation, with its score. One of them holds the devices' θ.
        """
        ...
