"""One cell of a comparison: a task, a method, a device, a seed, and the model they make."""

from __future__ import annotations

import enum
from dataclasses import asdict, dataclass
from itertools import count
from typing import Any

import numpy as np
import torch
from torch import nn

from blackprop.layer import PhysicalLayer
from blackprop.recipes.hardware import FLAWLESS, Hardware, Imperfections
from blackprop.recipes.methods import Frozen, Method, Oracle, Paper
from blackprop.recipes.task import Task


class Stream(enum.IntEnum):
    """What a seed is spent on; streams are independent of one another."""

    WEIGHTS = 0
    ORDER = 1
    LAYER = 2
    IMPERFECTIONS = 3


def stream_seed(seed: int, stream: Stream, index: int = 0) -> int:
    """The seed of one stream of a run's `seed`."""
    return int(np.random.SeedSequence((seed, stream, index)).generate_state(1)[0])


@dataclass(frozen=True)
class Cell:
    """Everything that decides a result. At one seed and device all methods start from the same θ and weights, and see
    the images in the same order.
    """

    task: Task
    method: Method
    hardware: Hardware
    seed: int = 0
    imperfections: Imperfections = FLAWLESS

    @property
    def key(self) -> dict[str, Any]:
        """What tells a cell from the others of its run."""
        return {"method": self.method.name, "device": self.hardware.value, "seed": self.seed}

    @property
    def signal_scaled(self) -> bool:
        """Whether θ moves by its measured signal (`optim.SignalScaled`): but for the references and the published
        method, which stay what they are.
        """
        return not isinstance(self.method, (Oracle, Frozen, Paper))

    def layer(self, d_in: int, d_out: int, index: int) -> PhysicalLayer:
        """The device that stands at place `index` of the network, as a layer."""
        errors = stream_seed(self.seed, Stream.IMPERFECTIONS, index)
        device = self.imperfections.wrap(self.hardware.make(d_in, d_out, errors), errors)
        return self.method.layer(device, self._generator(Stream.LAYER, index))

    def model(self) -> nn.Module:
        places = count()
        return self.task.build(
            lambda d_in, d_out: self.layer(d_in, d_out, next(places)), stream_seed(self.seed, Stream.WEIGHTS)
        )

    def order(self) -> torch.Generator:
        """The source of the images' order."""
        return self._generator(Stream.ORDER)

    def _generator(self, stream: Stream, index: int = 0) -> torch.Generator:
        return torch.Generator().manual_seed(stream_seed(self.seed, stream, index))


def plain(config: Any) -> dict[str, Any]:
    """A dataclass as JSON takes it: enums by value."""
    return {name: value.value if isinstance(value, enum.Enum) else value for name, value in asdict(config).items()}
