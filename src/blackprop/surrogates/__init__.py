"""Surrogates: the gradient for a device's input, from a model of the device."""

from blackprop.surrogates._base import Surrogate
from blackprop.surrogates._euler import Euler
from blackprop.surrogates._frozen import Frozen
from blackprop.surrogates._oracle import Oracle
from blackprop.surrogates._phase_mask import PhaseMask
from blackprop.surrogates._power_matrix import PowerMatrix
from blackprop.surrogates._random_feedback import RandomFeedback
from blackprop.surrogates._reciprocal import Reciprocal
from blackprop.surrogates._twin import Twin
from blackprop.surrogates.calibration._calibrated_response import CalibratedResponse
from blackprop.surrogates.least_squares._rules import LowRankRecursive, Projection, Recursive, Rule
from blackprop.surrogates.least_squares._streaming import Streaming
from blackprop.surrogates.low_rank._base import LowRankSurrogate
from blackprop.surrogates.low_rank._basis_update import BasisUpdate
from blackprop.surrogates.low_rank._projector_splitting import ProjectorSplitting, projector_splitting_step
from blackprop.surrogates.low_rank._reconstruction import Reconstruction

__all__ = [
    "BasisUpdate",
    "CalibratedResponse",
    "Euler",
    "Frozen",
    "LowRankRecursive",
    "LowRankSurrogate",
    "Oracle",
    "PhaseMask",
    "PowerMatrix",
    "Projection",
    "ProjectorSplitting",
    "RandomFeedback",
    "Reciprocal",
    "Reconstruction",
    "Recursive",
    "Rule",
    "Streaming",
    "Surrogate",
    "Twin",
    "projector_splitting_step",
]
