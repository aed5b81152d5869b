"""One cell of a comparison: a task, a method, a device, a seed, and the model they make."""

from __future__ import annotations

import enum
from dataclasses import asdict, dataclass
from itertools import count
from typing import Any

import numpy as np
import torch
from torch import nn

from blackprop.experiments.engine._execution import ORDINARY, Execution
from blackprop.experiments.engine._hardware import FLAWLESS, Imperfections, Kind
from blackprop.experiments.methods._methods import Method
from blackprop.experiments.tasks._task import Task
from blackprop.nn._layer import PhysicalLayer


class Stream(enum.IntEnum):
    """What a seed is spent on; streams are independent of one another."""

    WEIGHTS = 0
    ORDER = 1
    LAYER = 2
    IMPERFECTIONS = 3
    AUGMENT = 4
    DROPOUT = 5


def stream_seed(seed: int, stream: Stream, index: int = 0, rank: int = 0) -> int:
    """The seed of one stream of a run's `seed`; another in each of the processes that share it."""
    entropy = (seed, stream, index, rank) if rank else (seed, stream, index)
    return int(np.random.SeedSequence(entropy).generate_state(1)[0])


@dataclass(frozen=True)
class Cell:
    """Everything that decides a result. At one seed and device all methods start from the same θ and weights, and see
    the images in the same order.
    """

    task: Task
    method: Method
    hardware: Kind
    seed: int = 0
    imperfections: Imperfections = FLAWLESS
    execution: Execution = ORDINARY

    @property
    def key(self) -> dict[str, Any]:
        """What tells a cell from the others of its run."""
        return {"method": self.method.name, "device": self.hardware.value, "seed": self.seed}

    def layer(self, d_in: int, d_out: int, index: int, rank: int = 0) -> PhysicalLayer:
        """The device that stands at place `index` of the network, as a layer.

        Processes that share a run have devices with the same hidden errors and settings, each with noise and
        perturbations of its own.
        """
        errors = self.stream(Stream.IMPERFECTIONS, index)
        device = self.hardware.make(d_in, d_out, errors)
        device = self.imperfections.wrap(device, self.stream(Stream.IMPERFECTIONS, index, rank))
        layer = self.method.layer(device, torch.Generator().manual_seed(self.stream(Stream.LAYER, index)))
        if rank:
            layer.generator.manual_seed(self.stream(Stream.LAYER, index, rank))
        return layer

    def model(self, rank: int = 0) -> nn.Module:
        places = count()
        return self.task.build(
            lambda d_in, d_out: self.layer(d_in, d_out, next(places), rank), self.stream(Stream.WEIGHTS)
        )

    def order(self, epoch: int) -> torch.Generator:
        """The source of the order of an epoch's rows."""
        return torch.Generator().manual_seed(self.stream(Stream.ORDER, epoch))

    def stream(self, stream: Stream, index: int = 0, rank: int = 0) -> int:
        """The seed of one stream."""
        return stream_seed(self.seed, stream, index, rank)


def plain(config: Any) -> dict[str, Any]:
    """A dataclass as JSON takes it: enums by value."""
    return {name: value.value if isinstance(value, enum.Enum) else value for name, value in asdict(config).items()}
