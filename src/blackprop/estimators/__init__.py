"""Estimators: the gradient for a device's parameters, from queries."""

from blackprop.estimators.averaged import Averaged
from blackprop.estimators.base import Estimator
from blackprop.estimators.coordinate import Coordinate
from blackprop.estimators.credit import ByOutput, Credit, Whole
from blackprop.estimators.differences import (
    BatchContraction,
    Central,
    Contraction,
    Difference,
    Forward,
    ProbeContraction,
)
from blackprop.estimators.directional_memory import DirectionalMemory
from blackprop.estimators.element_shift import ElementShift
from blackprop.estimators.equilibrium import EquilibriumPropagation, Nudgeable
from blackprop.estimators.euler import EulerGradient
from blackprop.estimators.guided import GuidedDirections
from blackprop.estimators.modelled import Modelled
from blackprop.estimators.oracle import Oracle
from blackprop.estimators.parameter_shift import ParameterShift
from blackprop.estimators.random_directions import RandomDirections

__all__ = [
    "Averaged",
    "BatchContraction",
    "ByOutput",
    "Central",
    "Contraction",
    "Coordinate",
    "Credit",
    "Difference",
    "DirectionalMemory",
    "ElementShift",
    "EquilibriumPropagation",
    "Estimator",
    "EulerGradient",
    "Forward",
    "GuidedDirections",
    "Modelled",
    "Nudgeable",
    "Oracle",
    "ParameterShift",
    "ProbeContraction",
    "RandomDirections",
    "Whole",
]
