"""Devices: the simulators of the published method, wrappers for imperfections, and a way to bring your own."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from blackprop._later import later
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

if TYPE_CHECKING:
    from blackprop.devices import costs
    from blackprop.devices._as_built import as_built
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
    "costs",
    "doubled",
    "from_callable",
    "paired",
]

# Each device is imported at its first use: a training has one or two of them.
__getattr__: Callable[[str], Any] = later(
    __name__,
    {
        "blackprop.devices": "costs",
        "blackprop.devices._as_built": "as_built",
        "blackprop.devices.electronic": "cells",
        "blackprop.devices.electronic._crossbar": "IDEAL PCM RERAM ConductanceArray Crossbar Memristor",
        "blackprop.devices.electronic._diodes": "Diodes ExponentialDiodes IdealDiodes",
        "blackprop.devices.electronic._in_memory": "InMemoryODE",
        "blackprop.devices.electronic._memristive": "Memristive",
        "blackprop.devices.electronic._resistive": "Branches ResistiveNetwork doubled paired",
        "blackprop.devices.electronic._spiking_neuron": "Biases SpikingNeurons",
        "blackprop.devices.electronic.pulsed._crossbar": "PulsedCrossbar",
        "blackprop.devices.measured._elements": "MeasuredElements",
        "blackprop.devices.photonic": "chips",
        "blackprop.devices.photonic._coupled_modes": "CoupledModes",
        "blackprop.devices.photonic._diffraction": "Diffraction",
        "blackprop.devices.photonic._graded_index": "GradedIndexFibre",
        "blackprop.devices.photonic._imperfect": "ImperfectMesh ImperfectMicroring ImperfectMZIMesh "
        "ImperfectThreeSplitterMesh",
        "blackprop.devices.photonic._light_modulator": "LightModulator",
        "blackprop.devices.photonic._microring": "Microring",
        "blackprop.devices.photonic._mirrored": "MirroredDiffraction",
        "blackprop.devices.photonic._multimode_fibre": "MultimodeFibre",
        "blackprop.devices.photonic._mzi": "MZIMesh ThreeSplitterMesh",
        "blackprop.devices.photonic._scattering_medium": "ScatteringMedium",
        "blackprop.devices.photonic._scattering_waveguide": "SpinWaveScatterer",
        "blackprop.devices.photonic._tapped_mesh": "TappedMesh",
        "blackprop.devices.photonic.chips._chip": "Chip",
        "blackprop.devices.photonic.chips._singular": "SVDMesh",
        "blackprop.devices.reservoirs._active_ring": "ActiveRing",
        "blackprop.devices.reservoirs._echo_state": "EchoState",
        "blackprop.devices.reservoirs._ikeda": "Ikeda",
        "blackprop.devices.reservoirs._reservoir": "Reservoir Stateful",
    },
)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
