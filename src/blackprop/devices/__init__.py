"""Devices: the simulators of the published method, wrappers for imperfections, and a way to bring your own."""

from blackprop.devices.active_ring import ActiveRing
from blackprop.devices.base import Device, Simulator, Wrapper
from blackprop.devices.declared import Declared
from blackprop.devices.diffraction import Diffraction
from blackprop.devices.echo_state import EchoState
from blackprop.devices.from_callable import from_callable
from blackprop.devices.ikeda import Ikeda
from blackprop.devices.imperfect import ImperfectMesh, ImperfectMicroring, ImperfectMZIMesh, ImperfectThreeSplitterMesh
from blackprop.devices.imperfections import Drifting, Noisy, Quantised
from blackprop.devices.light_modulator import LightModulator
from blackprop.devices.matrix import LowRank, Matrix
from blackprop.devices.microring import Microring
from blackprop.devices.monarch import Monarch
from blackprop.devices.mzi import MZIMesh, ThreeSplitterMesh
from blackprop.devices.resampling import Resampling
from blackprop.devices.reservoir import Carried, Reservoir
from blackprop.devices.scattering_waveguide import SpinWaveScatterer

__all__ = [
    "ActiveRing",
    "Carried",
    "Declared",
    "Device",
    "Diffraction",
    "Drifting",
    "EchoState",
    "Ikeda",
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
    "Reservoir",
    "Simulator",
    "SpinWaveScatterer",
    "ThreeSplitterMesh",
    "Wrapper",
    "from_callable",
]
