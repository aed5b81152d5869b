"""Conversion: program a device to a given weight matrix."""

from blackprop.conversion._base import Programmed, Programmer
from blackprop.conversion._by_model import ByModel
from blackprop.conversion._by_pulses import ByPulses
from blackprop.conversion._by_queries import ByQueries
from blackprop.conversion._by_response import ByResponse
from blackprop.conversion._choice import choose

__all__ = [
    "ByModel",
    "ByPulses",
    "ByQueries",
    "ByResponse",
    "Programmed",
    "Programmer",
    "choose",
]
