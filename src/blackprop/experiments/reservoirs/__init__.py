"""Reservoir computing: kinds of reservoirs, tasks for them, and the ridge readout as a method.

Compare methods with `blackprop.experiments.AllowanceGrid` or with `blackprop compare reservoir`.
"""

from blackprop.experiments.reservoirs._hardware import Reservoirs
from blackprop.experiments.reservoirs._readout import ReadoutAlone
from blackprop.experiments.tasks.sequences._suite import suite

__all__ = ["ReadoutAlone", "Reservoirs", "suite"]
