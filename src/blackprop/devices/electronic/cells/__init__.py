"""Cells of pulsed crossbars: laws of their step, and published parts.

A cell has a weight w between bounds, moved by single pulses: `w ← w + Δ₊(w)` up, `w ← w − Δ₋(w)` down, with noise, and
cut off at its bounds. The classes differ in Δ₊ and Δ₋. Every cell of an array draws its own bounds, steps and asymmetry
from the spreads of the class.
"""

from blackprop.devices.electronic.cells._cell import Cell, Population
from blackprop.devices.electronic.cells._exponential import ExponentialStep
from blackprop.devices.electronic.cells._linear import (
    ConstantStep,
    LinearStep,
    SoftBounds,
    SoftBoundsReference,
)
from blackprop.devices.electronic.cells._measured import from_measurements
from blackprop.devices.electronic.cells._piecewise import PiecewiseStep
from blackprop.devices.electronic.cells._power import PowerStep
from blackprop.devices.electronic.cells._presets import (
    ARRAY_HFO2,
    ARRAY_OM,
    CAPACITOR,
    ECRAM,
    ECRAM_MO,
    GOKMEN_VLASOV,
    IDEALIZED,
    PCM_PULSED,
    RERAM_ES,
    RERAM_SB,
)

__all__ = [
    "ARRAY_HFO2",
    "ARRAY_OM",
    "CAPACITOR",
    "ECRAM",
    "ECRAM_MO",
    "GOKMEN_VLASOV",
    "IDEALIZED",
    "PCM_PULSED",
    "RERAM_ES",
    "RERAM_SB",
    "Cell",
    "ConstantStep",
    "ExponentialStep",
    "LinearStep",
    "PiecewiseStep",
    "Population",
    "PowerStep",
    "SoftBounds",
    "SoftBoundsReference",
    "from_measurements",
]
