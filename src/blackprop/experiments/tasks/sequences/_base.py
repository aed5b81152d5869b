"""What tasks of sequences share: a network with one reservoir, how wide that is, and how it is trained."""

from __future__ import annotations

import abc
from dataclasses import dataclass

from torch import nn

from blackprop.errors import ArgumentError
from blackprop.experiments.records import _settings as settings
from blackprop.experiments.tasks._epochs import EpochTask
from blackprop.experiments.tasks._objectives import Objective
from blackprop.experiments.tasks._task import Data
from blackprop.experiments.tasks.sequences._networks import HEADS, Architecture, MakeReservoir, Sizes, build


@dataclass(frozen=True)
class SequenceTask(EpochTask, abc.ABC):
    """A task whose rows are sequences `(time, channels)`, each sent through the reservoir as one row."""

    network: Architecture = Architecture.DENSE
    """dense: Linear, reservoir, readout; transformer: encoder block, reservoir, encoder block, readout."""
    width: int = 32
    """Of the transformer's blocks, which have four heads; the dense network has none."""
    nodes: int = 100
    """Outputs of the reservoir at each step."""
    drives: int = 1
    """Inputs of the reservoir at each step, a linear map of the sequence's channels."""
    epochs: int = 20
    batch_size: int = 8
    """Sequences a step; what is left over of an epoch's shuffled ones is left out of it."""
    lr: float = 1e-2
    """Adam's rate for the digital parameters; cosine decay to zero over the run."""
    device_lr: float = 1e-2
    """Adam's rate for the reservoir's settings, likewise."""

    def __post_init__(self) -> None:
        settings.at_least(self, width=4, nodes=1, drives=1, epochs=1, batch_size=2)  # batch norm needs two rows
        settings.rates(self, "lr", "device_lr")
        if self.width % HEADS:
            raise ArgumentError(f"{settings.called(self, 'width')} must be a multiple of {HEADS}, got {self.width}")

    @property
    @abc.abstractmethod
    def name(self) -> str: ...

    @property
    @abc.abstractmethod
    def objective(self) -> Objective: ...

    @property
    @abc.abstractmethod
    def sizes(self) -> Sizes:
        """Those of the network, which tell the shapes of the reservoir's device too."""

    @abc.abstractmethod
    def data(self) -> Data:
        """The same sequences whatever the seed."""

    def build(self, layer: MakeReservoir, seed: int) -> nn.Module:
        """The network with `layer((time, drives), (time, nodes))` for its reservoir; digital weights from `seed`
        alone.
        """
        return build(self.network, self.sizes, layer, seed, self.width)
