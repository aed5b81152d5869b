"""Twins: differentiable models of devices, whose unknown errors `surrogates.Twin` fits to the device's readings."""

from blackprop.twins._chain import ChainTwin
from blackprop.twins._crossbar import CrossbarTwin
from blackprop.twins._fibre import MultimodeFibreTwin
from blackprop.twins._in_memory import InMemoryTwin
from blackprop.twins._mlp import MLPTwin
from blackprop.twins._physical import (
    DiffractionTwin,
    LightModulatorTwin,
    MeshTwin,
    MicroringTwin,
    OffsetTwin,
    PhysicalTwin,
)
from blackprop.twins.chips import CalibratedChip, ChipTwin, Precision

__all__ = [
    "CalibratedChip",
    "ChainTwin",
    "ChipTwin",
    "CrossbarTwin",
    "DiffractionTwin",
    "InMemoryTwin",
    "LightModulatorTwin",
    "MLPTwin",
    "MeshTwin",
    "MicroringTwin",
    "MultimodeFibreTwin",
    "OffsetTwin",
    "PhysicalTwin",
    "Precision",
]
