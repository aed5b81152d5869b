"""Twins: differentiable models of devices, whose unknown errors `surrogates.Twin` fits to what the device answers."""

from blackprop.twins.chain import ChainTwin
from blackprop.twins.crossbar import CrossbarTwin
from blackprop.twins.fibre import MultimodeFibreTwin
from blackprop.twins.in_memory import InMemoryTwin
from blackprop.twins.perceptron import Perceptron
from blackprop.twins.physical import (
    DiffractionTwin,
    LightModulatorTwin,
    MeshTwin,
    MicroringTwin,
    OffsetTwin,
    PhysicalTwin,
)

__all__ = [
    "ChainTwin",
    "CrossbarTwin",
    "DiffractionTwin",
    "InMemoryTwin",
    "LightModulatorTwin",
    "MeshTwin",
    "MicroringTwin",
    "MultimodeFibreTwin",
    "OffsetTwin",
    "Perceptron",
    "PhysicalTwin",
]
