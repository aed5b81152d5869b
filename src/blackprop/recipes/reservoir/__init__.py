"""Reservoir computing: the field's own tasks, networks with a reservoir in them, the linear readout, a comparison."""

from blackprop.recipes.reservoir.base import SequenceTask
from blackprop.recipes.reservoir.by_surrogate import DesignTwin, LocalLinear
from blackprop.recipes.reservoir.capacity import Measured, memory_capacity, parity_capacity
from blackprop.recipes.reservoir.classification import DigitRows, Sequences, SpokenDigits
from blackprop.recipes.reservoir.compare import MakeDevice, Readout, run
from blackprop.recipes.reservoir.grid import ReservoirGrid, carry_out_reservoirs
from blackprop.recipes.reservoir.hardware import Reservoirs
from blackprop.recipes.reservoir.networks import Architecture, Dense, MakeReservoir, Network, Sizes, Transformer, pad
from blackprop.recipes.reservoir.objective import Capacity, Regression, Symbols
from blackprop.recipes.reservoir.ridge import Ridge, fit
from blackprop.recipes.reservoir.suite import suite
from blackprop.recipes.reservoir.tasks import (
    ChannelEqualisation,
    MackeyGlass,
    Narma10,
    ParityCheck,
    SantaFe,
    ShortTermMemory,
)

__all__ = [
    "Architecture",
    "Capacity",
    "ChannelEqualisation",
    "Dense",
    "DesignTwin",
    "DigitRows",
    "LocalLinear",
    "MackeyGlass",
    "MakeDevice",
    "MakeReservoir",
    "Measured",
    "Narma10",
    "Network",
    "ParityCheck",
    "Readout",
    "Regression",
    "ReservoirGrid",
    "Reservoirs",
    "Ridge",
    "SantaFe",
    "SequenceTask",
    "Sequences",
    "ShortTermMemory",
    "Sizes",
    "SpokenDigits",
    "Symbols",
    "Transformer",
    "carry_out_reservoirs",
    "fit",
    "memory_capacity",
    "pad",
    "parity_capacity",
    "run",
    "suite",
]
