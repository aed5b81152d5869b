"""Devices: the simulators of the published method, wrappers for imperfections, and a way to bring your own."""

from blackprop.devices._as_built import as_built
from blackprop.devices._base import Device
from blackprop.devices._chain import Chain
from blackprop.devices._declared import Declared
from blackprop.devices._differential import Differential
from blackprop.devices._drifting import Drifting
from blackprop.devices._from_callable import from_callable
from blackprop.devices._imperfections import Noisy, Quantised
from blackprop.devices._matrix import LowRank, Matrix
from blackprop.devices._monarch import Monarch
from blackprop.devices._resampling import Resampling
from blackprop.devices._rollout import Rollout
from blackprop.devices._simulator import Simulator
from blackprop.devices._wrapper import Wrapper
from blackprop.devices.electronic import cells
from blackprop.devices.electronic._crossbar import IDEAL, PCM, RERAM, ConductanceArray, Crossbar, Memristor
from blackprop.devices.electronic._diodes import Diodes, ExponentialDiodes, IdealDiodes
from blackprop.devices.electronic._in_memory import InMemoryODE
from blackprop.devices.electronic._memristive import Memristive
from blackprop.devices.electronic._resistive import Branches, ResistiveNetwork, doubled, paired
from blackprop.devices.electronic._spiking_neuron import Biases, SpikingNeurons
from blackprop.devices.electronic.pulsed._crossbar import PulsedCrossbar
from blackprop.devices.measured._elements import MeasuredElements
from blackprop.devices.photonic import chips
from blackprop.devices.photonic._coupled_modes import CoupledModes
from blackprop.devices.photonic._diffraction import Diffraction
from blackprop.devices.photonic._graded_index import GradedIndexFibre
from blackprop.devices.photonic._imperfect import (
    ImperfectMesh,
    ImperfectMicroring,
    ImperfectMZIMesh,
    ImperfectThreeSplitterMesh,
)
from blackprop.devices.photonic._light_modulator import LightModulator
from blackprop.devices.photonic._microring import Microring
from blackprop.devices.photonic._mirrored import MirroredDiffraction
from blackprop.devices.photonic._multimode_fibre import MultimodeFibre
from blackprop.devices.photonic._mzi import MZIMesh, ThreeSplitterMesh
from blackprop.devices.photonic._scattering_medium import ScatteringMedium
from blackprop.devices.photonic._scattering_waveguide import SpinWaveScatterer
from blackprop.devices.photonic._tapped_mesh import TappedMesh
from blackprop.devices.photonic.chips._chip import Chip
from blackprop.devices.photonic.chips._singular import SVDMesh
from blackprop.devices.reservoirs._active_ring import ActiveRing
from blackprop.devices.reservoirs._echo_state import EchoState
from blackprop.devices.reservoirs._ikeda import Ikeda
from blackprop.devices.reservoirs._reservoir import Reservoir, Stateful

__all__ = [
    "IDEAL",
    "PCM",
    "RERAM",
    "ActiveRing",
    "Biases",
    "Branches",
    "Chain",
    "Chip",
    "ConductanceArray",
    "CoupledModes",
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
    "MeasuredElements",
    "Memristive",
    "Memristor",
    "Microring",
    "MirroredDiffraction",
    "Monarch",
    "MultimodeFibre",
    "Noisy",
    "PulsedCrossbar",
    "Quantised",
    "Resampling",
    "Reservoir",
    "ResistiveNetwork",
    "Rollout",
    "SVDMesh",
    "ScatteringMedium",
    "Simulator",
    "SpikingNeurons",
    "SpinWaveScatterer",
    "Stateful",
    "TappedMesh",
    "ThreeSplitterMesh",
    "Wrapper",
    "as_built",
    "cells",
    "chips",
    "doubled",
    "from_callable",
    "paired",
]
