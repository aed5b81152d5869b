"""Estimators: the gradient for a device's parameters, from queries."""

from blackprop.estimators import pulsed
from blackprop.estimators._base import Estimator
from blackprop.estimators._coordinate import Coordinate
from blackprop.estimators._credit import ByOutput, Credit, Whole
from blackprop.estimators._differences import (
    BatchContraction,
    Central,
    Contraction,
    Difference,
    Forward,
    ProbeContraction,
)
from blackprop.estimators._element_shift import ElementShift
from blackprop.estimators._equilibrium import EquilibriumPropagation
from blackprop.estimators._euler import EulerGradient
from blackprop.estimators._from_surrogate import FromSurrogate
from blackprop.estimators._oracle import Oracle
from blackprop.estimators._parameter_shift import ParameterShift
from blackprop.estimators._random_directions import RandomDirections
from blackprop.estimators._still import Still
from blackprop.estimators.memory._averaged import Averaged
from blackprop.estimators.memory._directional_memory import DirectionalMemory
from blackprop.estimators.memory._guided import GuidedDirections
from blackprop.estimators.memory._held_subspace import HeldSubspace
from blackprop.estimators.two_way._from_fields import ForwardMode, ScatteringBackprop
from blackprop.estimators.two_way._in_situ import InSitu
from blackprop.estimators.two_way._outer import Outer
from blackprop.estimators.two_way._subspace import Subspace

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
    "ForwardMode",
    "FromSurrogate",
    "GuidedDirections",
    "HeldSubspace",
    "InSitu",
    "Oracle",
    "Outer",
    "ParameterShift",
    "ProbeContraction",
    "RandomDirections",
    "ScatteringBackprop",
    "Still",
    "Subspace",
    "Whole",
    "pulsed",
]
