"""Devices: the simulators of the published method, wrappers for imperfections, and a way to bring your own."""

from blackprop.devices.base import Device, Simulator, Wrapper
from blackprop.devices.declared import Declared
from blackprop.devices.diffraction import Diffraction
from blackprop.devices.from_callable import from_callable
from blackprop.devices.imperfect import ImperfectMesh, ImperfectMicroring, ImperfectMZIMesh, ImperfectThreeSplitterMesh
from blackprop.devices.imperfections import Drifting, Noisy, Quantised
from blackprop.devices.light_modulator import LightModulator
from blackprop.devices.matrix import LowRank, Matrix
from blackprop.devices.microring import Microring
from blackprop.devices.monarch import Monarch
from blackprop.devices.mzi import MZIMesh, ThreeSplitterMesh
from blackprop.devices.resampling import Resampling

__all__ = [
    "Declared",
    "Device",
    "Diffraction",
    "Drifting",
    "ImperfectMZIMesh",
    "ImperfectMesh",
    "ImperfectMicroring",
    "ImperfectThreeSplitterMesh",
    "LightModulator",
    "LowRank",
    "MZIMesh",
    "Matrix",
    "Microring",
    "Monarch",
    "Noisy",
    "Quantised",
    "Resampling",
    "Simulator",
    "ThreeSplitterMesh",
    "Wrapper",
    "from_callable",
]
