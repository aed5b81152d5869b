"""Training by pulses: each method says which tiles of a pulsed device are pulsed, read and written, and when.

A method is the estimator of a layer. In the backward pass it keeps the rows and the cotangents. `bp.optim.Pulsed` runs
its `update` in the optimizer's step, with the learning rate of θ.
"""

from blackprop.estimators.pulsed._agad import AGAD
from blackprop.estimators.pulsed._analog_sgd import AnalogSGD
from blackprop.estimators.pulsed._base import PulsedUpdate
from blackprop.estimators.pulsed._chopped import ChoppedTikiTaka
from blackprop.estimators.pulsed._mixed_precision import MixedPrecision
from blackprop.estimators.pulsed._multi_tile import MultiTile
from blackprop.estimators.pulsed._residual import FilteredResidual, ResidualLearning
from blackprop.estimators.pulsed._symmetric_point import SymmetricPointTracking, shift_to_symmetric_point
from blackprop.estimators.pulsed._tiki_taka import TikiTaka
from blackprop.estimators.pulsed._tiki_taka_v2 import TikiTakaV2

__all__ = [
    "AGAD",
    "AnalogSGD",
    "ChoppedTikiTaka",
    "FilteredResidual",
    "MixedPrecision",
    "MultiTile",
    "PulsedUpdate",
    "ResidualLearning",
    "SymmetricPointTracking",
    "TikiTaka",
    "TikiTakaV2",
    "shift_to_symmetric_point",
]
