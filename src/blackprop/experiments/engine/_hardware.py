"""The devices that a recipe can be run on, and what can be wrong with them."""

from __future__ import annotations

import enum
import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from blackprop import devices
from blackprop.devices import Device
from blackprop.devices.electronic._crossbar import PCM, Crossbar
from blackprop.devices.electronic._memristive import Memristive
from blackprop.devices.photonic._scattering_medium import ScatteringMedium
from blackprop.errors import ArgumentError, IncompatibleError

Shape = int | tuple[int, ...]  # of a row, and of its reading
REMOTE = "remote"
REACH = 4  # of a converter of settings, in largest initial values, where the device declares neither limits nor period


class Kind(Protocol):
    """A kind of device; the value is its name in files and on the command line."""

    @property
    def value(self) -> str: ...

    def make(self, d_in: Any, d_out: Any, seed: int = 0) -> Device:
        """The device for a place of a network, for rows and readings of the shapes that its tasks have there.

        `seed` draws the hidden errors of a device that has any.
        """
        ...


class Hardware(enum.Enum):
    """A kind of device; the value is its name in files and on the command line."""

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
    """Of phase-change cells, which come out otherwise at every programming and read otherwise at every row."""
    SCATTERING_MEDIUM = "scattering-medium"
    """Behind a phase mask and read by a camera: few parameters, and intensities."""

    def make(self, d_in: int, d_out: int, seed: int = 0) -> Device:
        """The device; `seed` draws the hidden errors of one that has any."""
        if self in _ERRING:
            return _ERRING[self](d_in, d_out, seed=seed)
        return _KINDS[self](d_in, d_out)


def _crossbar(d_in: int, d_out: int, seed: int) -> Device:
    """No time passes for its cells, so that a run does not depend on the machine: they do not drift."""
    return Memristive(Crossbar(d_in, d_out, memristor=PCM), seed=seed, clock=lambda: 0.0)


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
}


@dataclass(frozen=True)
class Remote:
    """Devices that servers have (`blackprop serve`): each place of a network takes the first that fits it."""

    address: tuple[str, ...] = ()
    """Of the servers, tcp://host:port."""
    keys: Path | None = None
    """The folder of this client's keys; without them, only servers on this machine that ask for none."""
    repeat_in_doubt: bool = False
    """Measure a round again of which a killed server cannot say whether it was measured; else that ends the run."""

    @property
    def value(self) -> str:
        return REMOTE

    def make(self, d_in: int, d_out: int, seed: int = 0) -> Device:
        del seed  # what is hidden in a device that is really there was drawn long ago
        if not self.address:
            raise ArgumentError("a remote device needs the address of its server: `--address tcp://host:port`")
        found = [_connected(address, self.keys, self.repeat_in_doubt) for address in self.address]
        for device in found:
            if (device.in_shape, device.out_shape) == ((d_in,), (d_out,)):
                device.forget()  # as a device that has just been made
                return device
        raise IncompatibleError(
            f"this network wants a device {d_in} -> {d_out}, and there are {', '.join(map(str, found))}; serve one "
            "of that size, or choose another network"
        )


NOWHERE = Remote()


@functools.cache
def _connected(address: str, keys: Path | None, repeat_in_doubt: bool) -> Device:
    """One connection a process: networks are built again and again, the device is one."""
    from blackprop.lab import RemoteDevice  # noqa: PLC0415  # needs an extra of its own

    return RemoteDevice(address, keys=keys, insecure=keys is None, repeat_in_doubt=repeat_in_doubt)


@dataclass(frozen=True)
class Imperfections:
    """Noise, resolution and drift of every device of a trial, for every query."""

    read_noise: float = 0.0
    """Additive noise on every reading, relative to the output's root mean square."""
    proportional_noise: float = 0.0
    """Multiplicative noise on every reading."""
    input_bits: int | None = None
    """Resolution of the rows that are sent."""
    theta_bits: int | None = None
    """Resolution of the settings that are written: over the device's limits or its period; where it declares neither
    (matrix, low-rank, resampling), over 4 times its largest initial value to either side, where the converter clips.
    """
    output_bits: int | None = None
    """Resolution of what is read."""
    drift: float = 0.0
    """Random walk of the settings: its step at every programming, in the settings' units."""

    def __post_init__(self) -> None:
        for name in ("read_noise", "proportional_noise", "drift"):
            if not getattr(self, name) >= 0:
                raise ArgumentError(f"`Imperfections({name}=...)` must not be negative, got {getattr(self, name)}")

    def wrap(self, device: Device, seed: int) -> Device:
        """Inside out, as a signal meets them: the setting is rounded and drifts, the output is noisy and rounded."""
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
        """The range that settings are rounded in; None where the device has a range of its own."""
        spec = device.theta
        if self.theta_bits is None or spec.limited or spec.period is not None:
            return None
        bound = REACH * float(spec.draw(torch.Generator().manual_seed(0)).abs().max())
        return -bound, bound


FLAWLESS = Imperfections()
