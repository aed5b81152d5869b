"""Estimators: the gradient for a device's parameters, from queries."""

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
from blackprop.estimators.element_shift import ElementShift
from blackprop.estimators.modelled import Modelled
from blackprop.estimators.oracle import Oracle
from blackprop.estimators.parameter_shift import ParameterShift
from blackprop.estimators.random_directions import RandomDirections

__all__ = [
    "BatchContraction",
    "ByOutput",
    "Central",
    "Contraction",
    "Coordinate",
    "Credit",
    "Difference",
    "ElementShift",
    "Estimator",
    "Forward",
    "Modelled",
    "Oracle",
    "ParameterShift",
    "ProbeContraction",
    "RandomDirections",
    "Whole",
]
