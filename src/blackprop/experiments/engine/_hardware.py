"""The devices on which experiments run, and their imperfections."""

from __future__ import annotations

import enum
import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from blackprop import devices
from blackprop.core.capabilities._cells import Cells
from blackprop.core.capabilities._fields import Fields
from blackprop.core.capabilities._gains import Gains
from blackprop.core.capabilities._read_back import ReadBack, ReadBackField
from blackprop.core.capabilities._taps import Taps
from blackprop.devices import Device, cells
from blackprop.devices.electronic._crossbar import PCM, Crossbar
from blackprop.devices.electronic._memristive import Memristive
from blackprop.devices.photonic._scattering_medium import ScatteringMedium
from blackprop.errors import ArgumentError, IncompatibleError

Shape = int | tuple[int, ...]  # of a row or a reading
READ_BOTH_WAYS = (Cells, Fields, Gains, ReadBack, ReadBackField, Taps)  # which methods of the plan use
REMOTE = "remote"
BUILT_NOISE = 0.01  # of every reading of a device as built, relative to the root mean square of the outputs
REACH = (
    4  # range of a settings converter, in largest initial values, if the device declares neither limits nor a period
)


class Kind(Protocol):
    """A kind of device. The value is its name in files and on the command line."""

    @property
    def value(self) -> str: ...

    def make(self, d_in: Any, d_out: Any, seed: int = 0) -> Device:
        """Make the device for a position of a network, whose rows and readings have the shapes `d_in` and `d_out`.

        `seed` draws the hidden errors, if the device has any.
        """
        ...


class Hardware(enum.Enum):
    """A kind of simulated device. The value is its name in files and on the command line.

    >>> from blackprop.experiments import Hardware
    >>> Hardware("mzi-mesh").make(4, 4).in_shape
    (4,)
    """

    MATRIX = "matrix"
    LIGHT_MODULATOR = "light-modulator"
    MICRORING = "microring"
    MZI_MESH = "mzi-mesh"
    THREE_SPLITTER_MESH = "three-splitter-mesh"
    MONARCH = "monarch"
    LOW_RANK = "low-rank"
    RESAMPLING = "resampling"
    DIFFRACTION = "diffraction"
    IMPERFECT_MZI_MESH = "imperfect-mzi"
    IMPERFECT_THREE_SPLITTER_MESH = "imperfect-three-splitter"
    IMPERFECT_MICRORING = "imperfect-microring"
    CROSSBAR = "crossbar"
    """Phase-change cells, with random errors at every programming and at every read row."""
    SCATTERING_MEDIUM = "scattering-medium"
    """A phase mask in front and a camera behind: few parameters, intensity readings."""
    BUILT_MODULATOR = "built-modulator"
    """A light modulator as built, `devices.as_built`: hidden offsets and gains, and 1 % read noise."""
    UNDECLARED_MODULATOR = "undeclared-modulator"
    """The same device, of which only the period of its settings is declared."""
    PULSED_ECRAM = "pulsed-ecram"
    """Cells that are moved by pulses: electrochemical ones, of 1,000 states."""
    PULSED_RERAM = "pulsed-reram"
    """Resistive memory of 1,000 states, with much noise of a pulse and of a state."""
    PULSED_10 = "pulsed-10-states"
    """Soft bounds, ten states between −0.6 and 0.6."""
    PULSED_HFO2 = "pulsed-hfo2"
    """Oxide cells of four to five states, which differ much from cell to cell."""

    @property
    def pulsed(self) -> bool:
        """Whether the device is moved by pulses: its programmings switch tiles, and write no setting."""
        return self in _CELLS

    def make(self, d_in: int, d_out: int, seed: int = 0) -> Device:
        """Make the device. `seed` draws its hidden errors, if it has any."""
        if self in _CELLS:
            return devices.PulsedCrossbar(d_in, d_out, _CELLS[self], seed=seed)
        if self in _ERRING:
            return _ERRING[self](d_in, d_out, seed=seed)
        return _KINDS[self](d_in, d_out)


def _crossbar(d_in: int, d_out: int, seed: int) -> Device:
    """Make a crossbar with a constant clock, so that its cells do not drift and results are the same everywhere."""
    return Memristive(Crossbar(d_in, d_out, memristor=PCM), seed=seed, clock=lambda: 0.0)


def _built_modulator(d_in: int, d_out: int, seed: int) -> Device:
    built = devices.as_built(devices.LightModulator(d_in, d_out), seed=seed)
    return devices.Noisy(built, read=BUILT_NOISE, seed=seed + 1)


def _undeclared_modulator(d_in: int, d_out: int, seed: int) -> Device:
    device = _built_modulator(d_in, d_out, seed)
    return devices.Declared(device, period=device.theta.period)


_KINDS = {
    Hardware.MATRIX: devices.Matrix,
    Hardware.LIGHT_MODULATOR: devices.LightModulator,
    Hardware.MICRORING: devices.Microring,
    Hardware.MZI_MESH: devices.MZIMesh,
    Hardware.THREE_SPLITTER_MESH: devices.ThreeSplitterMesh,
    Hardware.MONARCH: devices.Monarch,
    Hardware.LOW_RANK: devices.LowRank,
    Hardware.RESAMPLING: devices.Resampling,
    Hardware.DIFFRACTION: devices.Diffraction,
}
_ERRING = {
    Hardware.IMPERFECT_MZI_MESH: devices.ImperfectMZIMesh,
    Hardware.IMPERFECT_THREE_SPLITTER_MESH: devices.ImperfectThreeSplitterMesh,
    Hardware.IMPERFECT_MICRORING: devices.ImperfectMicroring,
    Hardware.CROSSBAR: _crossbar,
    Hardware.SCATTERING_MEDIUM: ScatteringMedium,
    Hardware.BUILT_MODULATOR: _built_modulator,
    Hardware.UNDECLARED_MODULATOR: _undeclared_modulator,
}
_CELLS = {
    Hardware.PULSED_ECRAM: cells.ECRAM,
    Hardware.PULSED_RERAM: cells.RERAM_SB,
    Hardware.PULSED_10: cells.SoftBounds(step=0.12),
    Hardware.PULSED_HFO2: cells.ARRAY_HFO2,
}


@dataclass(frozen=True)
class Remote:
    """Devices of servers (`blackprop serve`), with their ways of being read. Each position of a network takes the first
    device of its size.
    """

    address: tuple[str, ...] = ()
    """Addresses of the servers, tcp://host:port."""
    keys: Path | None = None
    """Folder of this client's keys. Without keys, only servers on this machine that need none can be reached."""
    repeat_in_doubt: bool = False
    """Measure a round again if a killed server cannot tell whether it was measured. By default this ends the run."""

    @property
    def value(self) -> str:
        return REMOTE

    def make(self, d_in: int, d_out: int, seed: int = 0) -> Device:
        del seed  # real hardware has its own errors
        if not self.address:
            raise ArgumentError("a remote device needs the address of its server: `--address tcp://host:port`")
        found = [_connected(address, self.keys, self.repeat_in_doubt) for address in self.address]
        for device in found:
            if (device.in_shape, device.out_shape) == ((d_in,), (d_out,)):
                device.forget()  # in the state of a new device
                return device
        raise IncompatibleError(
            f"this network needs a device {d_in} -> {d_out}, and the servers have {', '.join(map(str, found))}; serve "
            "a device of that size, or choose another network"
        )


NOWHERE = Remote()


@functools.cache
def _connected(address: str, keys: Path | None, repeat_in_doubt: bool) -> Device:
    """Return the one connection of this process, which is shared when networks are built repeatedly."""
    from blackprop.lab import RemoteDevice  # noqa: PLC0415  # needs an extra

    return RemoteDevice(
        address, keys=keys, insecure=keys is None, repeat_in_doubt=repeat_in_doubt, capabilities=READ_BOTH_WAYS
    )


@dataclass(frozen=True)
class Imperfections:
    """Noise, resolution and drift of every device of a trial, in every query."""

    read_noise: float = 0.0
    """Additive noise on every reading, relative to the root mean square of the output."""
    proportional_noise: float = 0.0
    """Multiplicative noise on every reading, relative to the reading."""
    input_bits: int | None = None
    """Resolution of the rows sent. By default they are exact."""
    theta_bits: int | None = None
    """Resolution of the settings. By default they are exact. The range is the device's limits or its period. If it
    declares neither (matrix, low-rank, resampling), the range is ±4 times its largest initial value, and settings
    beyond it are clipped."""
    output_bits: int | None = None
    """Resolution of the readings. By default they are exact."""
    drift: float = 0.0
    """Standard deviation of the settings' random walk at each programming, in the units of the settings."""

    def __post_init__(self) -> None:
        for name in ("read_noise", "proportional_noise", "drift"):
            if not getattr(self, name) >= 0:
                raise ArgumentError(f"`Imperfections({name}=...)` must not be negative, got {getattr(self, name)}")

    def wrap(self, device: Device, seed: int) -> Device:
        """Wrap `device` in its imperfections, from the inside out: drift, noise, rounding."""
        if self.drift:
            device = devices.Drifting(device, per_programming=self.drift, seed=seed)
        if self.read_noise or self.proportional_noise:
            device = devices.Noisy(device, read=self.read_noise, proportional=self.proportional_noise, seed=seed + 1)
        if any(bits is not None for bits in (self.input_bits, self.theta_bits, self.output_bits)):
            device = devices.Quantised(
                device,
                input_bits=self.input_bits,
                theta_bits=self.theta_bits,
                output_bits=self.output_bits,
                theta_range=self._theta_range(device),
            )
        return device

    def _theta_range(self, device: Device) -> tuple[float, float] | None:
        """Return the range in which settings are rounded; None if the device has its own range."""
        spec = device.theta
        if self.theta_bits is None or spec.limited or spec.period is not None:
            return None
        bound = REACH * float(spec.draw(torch.Generator().manual_seed(0)).abs().max())
        return -bound, bound


FLAWLESS = Imperfections()
