"""One trial: a task, a method, an allowance, a device and a seed, and the model they make."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from itertools import count
from typing import Any

import numpy as np
import torch
from torch import nn

from blackprop.experiments.engine._allowance import Allowance
from blackprop.experiments.engine._execution import ORDINARY, Execution
from blackprop.experiments.engine._hardware import FLAWLESS, Imperfections, Kind, Shape
from blackprop.experiments.methods._methods import TrainingMethod
from blackprop.experiments.tasks._task import Task
from blackprop.nn._layer import PhysicalLayer


class Stream(enum.IntEnum):
    """The uses of a seed. Each use has its own independent random numbers."""

    WEIGHTS = 0
    ORDER = 1
    LAYER = 2
    IMPERFECTIONS = 3
    AUGMENT = 4
    DROPOUT = 5


def stream_seed(seed: int, stream: Stream, index: int = 0, rank: int = 0) -> int:
    """Return the seed of one stream of a run's `seed`. Processes that share a run get different seeds by `rank`."""
    entropy = (seed, stream, index, rank) if rank else (seed, stream, index)
    return int(np.random.SeedSequence(entropy).generate_state(1)[0])


@dataclass(frozen=True)
class Trial:
    """Everything that determines one result.

    - `task`: the data, the network and how it is trained.
    - `method`: how each device becomes a layer, and how the gradients are computed.
    - `hardware`: the kind of device.
    - `seed` (default 0): at the same seed and device, all methods start from the same θ and weights and see the rows in
      the same order.
    - `imperfections` (default: none): noise, resolution and drift of every device.
    - `execution`: precision, gradient accumulation, clipping.
    - `allowance` (default None): the rows and programmings that training may use. None: as many as the steps of the
      task take.

    ```python
    trial = Trial(Digits(epochs=1), Default(), Hardware.MZI_MESH, seed=0)
    print(price(trial, trial.task.data()).rows)  # before any query
    result = train(trial)
    ```
    """

    task: Task
    method: TrainingMethod
    hardware: Kind
    seed: int = 0
    imperfections: Imperfections = FLAWLESS
    execution: Execution = ORDINARY
    allowance: Allowance | None = None

    @property
    def key(self) -> dict[str, Any]:
        """The method, device and seed, which identify a trial within its grid."""
        return {"method": self.method.name, "device": self.hardware.value, "seed": self.seed}

    def config(self) -> dict[str, Any]:
        """Return everything that determines the result, as JSON-compatible values."""
        return {
            "task": self.task.name,
            "settings": plain(self.task),
            "method": {"class": type(self.method).__name__, **plain(self.method)},
            "device": self.hardware.value,
            "seed": self.seed,
            "imperfections": plain(self.imperfections),
            "execution": plain(self.execution),
            "allowance": None if self.allowance is None else plain(self.allowance),
        }

    def layer(self, d_in: Shape, d_out: Shape, index: int, rank: int = 0) -> PhysicalLayer:
        """Return the layer of the device at position `index` of the network.

        In processes that share a run, devices have the same hidden errors and settings, but independent noise and
        perturbations.
        """
        device = self.method.arranged(self.hardware.make(d_in, d_out, self.stream(Stream.IMPERFECTIONS, index)))
        device = self.imperfections.wrap(device, self.stream(Stream.IMPERFECTIONS, index, rank))
        layer = self.method.layer(device, torch.Generator().manual_seed(self.stream(Stream.LAYER, index)))
        if rank:
            layer.generator.manual_seed(self.stream(Stream.LAYER, index, rank))
        return layer

    def model(self, rank: int = 0) -> nn.Module:
        """Return the untrained network."""
        places = count()
        return self.task.build(
            lambda d_in, d_out: self.layer(d_in, d_out, next(places), rank), self.stream(Stream.WEIGHTS)
        )

    def order(self, epoch: int) -> torch.Generator:
        """Return the generator that shuffles the rows of an epoch."""
        return torch.Generator().manual_seed(self.stream(Stream.ORDER, epoch))

    def stream(self, stream: Stream, index: int = 0, rank: int = 0) -> int:
        """Return the seed of one stream."""
        return stream_seed(self.seed, stream, index, rank)


def plain(config: Any) -> dict[str, Any]:
    """Convert a dataclass to JSON-compatible values: enums by value, inner dataclasses as mappings with their class."""
    return {field.name: _plain(getattr(config, field.name)) for field in fields(config)}


def _plain(value: Any) -> Any:
    if isinstance(value, enum.Enum):
        return value.value
    if is_dataclass(value) and not isinstance(value, type):
        return {"class": type(value).__name__, **plain(value)}
    if isinstance(value, Mapping):
        return {name: _plain(each) for name, each in value.items()}
    return [_plain(each) for each in value] if isinstance(value, list | tuple) else value
