"""Optimizers that know of devices, and such as need nothing but the loss."""

from blackprop.optim.base import ForwardOnly
from blackprop.optim.homodyne import FrequencyPlan, HomodyneGradient
from blackprop.optim.multiplexed import MultiplexedGradientDescent
from blackprop.optim.perturbative import PerturbativeGradient
from blackprop.optim.signal_scaled import SignalScaled
from blackprop.optim.spsa import SPSA

__all__ = [
    "SPSA",
    "ForwardOnly",
    "FrequencyPlan",
    "HomodyneGradient",
    "MultiplexedGradientDescent",
    "PerturbativeGradient",
    "SignalScaled",
]
