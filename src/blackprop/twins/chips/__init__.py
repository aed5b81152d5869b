"""Chips calibrated in closed form: the model, how precisely it is made, and the surrogate that makes it."""

from blackprop.twins.chips._precision import Precision
from blackprop.twins.chips._surrogate import CalibratedChip
from blackprop.twins.chips._twin import ChipTwin

__all__ = ["CalibratedChip", "ChipTwin", "Precision"]
