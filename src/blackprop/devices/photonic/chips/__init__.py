"""Integrated meshes as they are built: the designs, and the parts that a `Chip` is made of."""

from blackprop.devices.photonic.chips._chip import Build, Chip
from blackprop.devices.photonic.chips._design import Butterfly, Design, Layout, Rectangular, Triangular
from blackprop.devices.photonic.chips._heaters import Heaters
from blackprop.devices.photonic.chips._losses import Losses
from blackprop.devices.photonic.chips._readout import Balanced, Field, Power, Readout
from blackprop.devices.photonic.chips._taps import PowerTaps

__all__ = [
    "Balanced",
    "Build",
    "Butterfly",
    "Chip",
    "Design",
    "Field",
    "Heaters",
    "Layout",
    "Losses",
    "Power",
    "PowerTaps",
    "Readout",
    "Rectangular",
    "Triangular",
]
