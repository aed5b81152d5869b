"""Estimators: the gradient for a device's parameters, from queries."""

from blackprop.estimators.base import Estimator
from blackprop.estimators.coordinate import Coordinate
from blackprop.estimators.differences import BatchContraction, Central, Contraction, Difference, Forward
from blackprop.estimators.oracle import Oracle
from blackprop.estimators.random_directions import RandomDirections

__all__ = [
    "BatchContraction",
    "Central",
    "Contraction",
    "Coordinate",
    "Difference",
    "Estimator",
    "Forward",
    "Oracle",
    "RandomDirections",
]
