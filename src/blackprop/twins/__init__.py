"""Twins: differentiable models of devices, whose unknown errors `surrogates.Twin` fits to what the device answers."""

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
    "DiffractionTwin",
    "LightModulatorTwin",
    "MeshTwin",
    "MicroringTwin",
    "OffsetTwin",
    "Perceptron",
    "PhysicalTwin",
]
