"""Reservoir computing: the field's own tasks, networks with a reservoir in them, the linear readout, a comparison."""

from blackprop.experiments.reservoirs._by_surrogate import DesignTwin, LocalLinear
from blackprop.experiments.reservoirs._compare import MakeDevice, Readout, run
from blackprop.experiments.reservoirs._grid import ReservoirGrid, carry_out_reservoirs
from blackprop.experiments.reservoirs._hardware import Reservoirs
from blackprop.experiments.tasks.sequences._base import SequenceTask
from blackprop.experiments.tasks.sequences._capacity import Measured, memory_capacity, parity_capacity
from blackprop.experiments.tasks.sequences._classification import DigitRows, Sequences, SpokenDigits
from blackprop.experiments.tasks.sequences._networks import (
    Architecture,
    Dense,
    MakeReservoir,
    Network,
    Sizes,
    Transformer,
    pad,
)
from blackprop.experiments.tasks.sequences._objective import Capacity, Regression, Symbols
from blackprop.experiments.tasks.sequences._ridge import Ridge, fit
from blackprop.experiments.tasks.sequences._suite import suite
from blackprop.experiments.tasks.sequences._tasks import (
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
