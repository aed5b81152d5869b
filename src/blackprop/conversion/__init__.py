"""Conversion: program a device to a given weight matrix."""

from blackprop.conversion._base import Programmed, Programmer, read_matrix, start_from, warn_if_poor
from blackprop.conversion._by_model import ByModel
from blackprop.conversion._by_queries import ByQueries
from blackprop.conversion._by_response import ByResponse
from blackprop.conversion._choice import check_linear, check_wanted, choose, require_matrix

__all__ = [
    "ByModel",
    "ByQueries",
    "ByResponse",
    "Programmed",
    "Programmer",
    "check_linear",
    "check_wanted",
    "choose",
    "read_matrix",
    "require_matrix",
    "start_from",
    "warn_if_poor",
]
