"""The common parts of sequence tasks: a network with one reservoir, its widths and its training."""

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
    """A task whose rows are sequences `(time, channels)`. The reservoir reads each sequence as one row."""

    network: Architecture = Architecture.DENSE
    """dense: Linear, reservoir, readout. transformer: encoder block, reservoir, encoder block, readout."""
    width: int = 32
    """Width of the transformer blocks, which have four heads. Without effect in the dense network."""
    nodes: int = 100
    """Outputs of the reservoir at each step."""
    drives: int = 1
    """Inputs of the reservoir at each step, a linear map of the channels of the sequence."""
    epochs: int = 20
    """Passes over the training sequences."""
    batch_size: int = 8
    """Sequences per step. Sequences that do not fill a batch are left out of the epoch."""
    lr: float = 1e-2
    """Adam's rate for the digital parameters, with cosine decay to zero over the run."""
    device_lr: float = 1e-2
    """Adam's rate for the settings of the reservoir, with the same decay."""

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
        """The sizes of the network, which also determine the shapes of the reservoir."""

    @abc.abstractmethod
    def data(self) -> Data:
        """Return the sequences, the same for every seed."""

    def build(self, layer: MakeReservoir, seed: int) -> nn.Module:
        """Build the network with `layer((time, drives), (time, nodes))` as its reservoir. The digital weights depend
        only on `seed`.
        """
        return build(self.network, self.sizes, layer, seed, self.width)
