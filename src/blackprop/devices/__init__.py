"""Devices: the simulators of the published method, wrappers for imperfections, and a way to bring your own."""

from blackprop.devices.active_ring import ActiveRing
from blackprop.devices.base import Device, Simulator, Wrapper
from blackprop.devices.chain import Chain
from blackprop.devices.crossbar import IDEAL, PCM, RERAM, ConductanceArray, Crossbar, Memristor
from blackprop.devices.declared import Declared
from blackprop.devices.differential import Differential
from blackprop.devices.diffraction import Diffraction
from blackprop.devices.diodes import Diodes, ExponentialDiodes, IdealDiodes
from blackprop.devices.echo_state import EchoState
from blackprop.devices.from_callable import from_callable
from blackprop.devices.graded_index import GradedIndexFibre
from blackprop.devices.ikeda import Ikeda
from blackprop.devices.imperfect import ImperfectMesh, ImperfectMicroring, ImperfectMZIMesh, ImperfectThreeSplitterMesh
from blackprop.devices.imperfections import Drifting, Noisy, Quantised
from blackprop.devices.in_memory import InMemoryODE
from blackprop.devices.light_modulator import LightModulator
from blackprop.devices.matrix import LowRank, Matrix
from blackprop.devices.memristive import Memristive
from blackprop.devices.microring import Microring
from blackprop.devices.monarch import Monarch
from blackprop.devices.multimode_fibre import MultimodeFibre
from blackprop.devices.mzi import MZIMesh, ThreeSplitterMesh
from blackprop.devices.resampling import Resampling
from blackprop.devices.reservoir import Carried, Reservoir
from blackprop.devices.resistive import Branches, ResistiveNetwork, doubled, paired
from blackprop.devices.rollout import Rollout
from blackprop.devices.scattering_medium import ScatteringMedium
from blackprop.devices.scattering_waveguide import SpinWaveScatterer
from blackprop.devices.spiking_neuron import Biases, SpikingNeurons

__all__ = [
    "IDEAL",
    "PCM",
    "RERAM",
    "ActiveRing",
    "Biases",
    "Branches",
    "Carried",
    "Chain",
    "ConductanceArray",
    "Crossbar",
    "Declared",
    "Device",
    "Differential",
    "Diffraction",
    "Diodes",
    "Drifting",
    "EchoState",
    "ExponentialDiodes",
    "GradedIndexFibre",
    "IdealDiodes",
    "Ikeda",
    "ImperfectMZIMesh",
    "ImperfectMesh",
    "ImperfectMicroring",
    "ImperfectThreeSplitterMesh",
    "InMemoryODE",
    "LightModulator",
    "LowRank",
    "MZIMesh",
    "Matrix",
    "Memristive",
    "Memristor",
    "Microring",
    "Monarch",
    "MultimodeFibre",
    "Noisy",
    "Quantised",
    "Resampling",
    "Reservoir",
    "ResistiveNetwork",
    "Rollout",
    "ScatteringMedium",
    "Simulator",
    "SpikingNeurons",
    "SpinWaveScatterer",
    "ThreeSplitterMesh",
    "Wrapper",
    "doubled",
    "from_callable",
    "paired",
]
