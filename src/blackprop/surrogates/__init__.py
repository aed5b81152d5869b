"""Surrogates: the gradient for a device's input, from what is known of the device."""

from blackprop.surrogates.base import Surrogate
from blackprop.surrogates.basis_update import BasisUpdate
from blackprop.surrogates.calibrated_response import CalibratedResponse
from blackprop.surrogates.euler import Euler
from blackprop.surrogates.frozen import Frozen
from blackprop.surrogates.low_rank import LowRankSurrogate
from blackprop.surrogates.oracle import Oracle
from blackprop.surrogates.projector_splitting import ProjectorSplitting, projector_splitting_step
from blackprop.surrogates.random_feedback import RandomFeedback
from blackprop.surrogates.reconstruction import Reconstruction
from blackprop.surrogates.rules import LowRankRecursive, Projection, Recursive, Rule
from blackprop.surrogates.streaming import Streaming
from blackprop.surrogates.twin import Twin

__all__ = [
    "BasisUpdate",
    "CalibratedResponse",
    "Euler",
    "Frozen",
    "LowRankRecursive",
    "LowRankSurrogate",
    "Oracle",
    "Projection",
    "ProjectorSplitting",
    "RandomFeedback",
    "Reconstruction",
    "Recursive",
    "Rule",
    "Streaming",
    "Surrogate",
    "Twin",
    "projector_splitting_step",
]
