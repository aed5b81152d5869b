"""Optimizers for models with devices, and optimizers that need the loss alone."""

from blackprop.optim._base import ForwardOnly
from blackprop.optim._drift_floor import DriftFloor
from blackprop.optim._homodyne import FrequencyPlan, HomodyneGradient
from blackprop.optim._low_rank import LOZO, ZOMuon
from blackprop.optim._multiplexed import MultiplexedGradientDescent
from blackprop.optim._perturbative import PerturbativeGradient
from blackprop.optim._pulsed import Pulsed
from blackprop.optim._recent_norms import RecentNorms
from blackprop.optim._sharpness_aware import SharpnessAware
from blackprop.optim._signal_scaled import SignalScaled
from blackprop.optim._spsa import SPSA

__all__ = [
    "LOZO",
    "SPSA",
    "DriftFloor",
    "ForwardOnly",
    "FrequencyPlan",
    "HomodyneGradient",
    "MultiplexedGradientDescent",
    "PerturbativeGradient",
    "Pulsed",
    "RecentNorms",
    "SharpnessAware",
    "SignalScaled",
    "ZOMuon",
]
