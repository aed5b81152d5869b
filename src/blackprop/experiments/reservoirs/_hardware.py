"""The reservoirs on which methods are compared, by their names on the command line."""

from __future__ import annotations

import enum
from collections.abc import Callable

from blackprop import devices
from blackprop.devices import Device, Drifting

MISALIGNED = 0.02  # standard deviation of the offset of every setting, unknown to all methods


class Reservoirs(enum.Enum):
    """A kind of reservoir. The value is its name in files and on the command line."""

    ECHO_STATE = "echo-state"
    ACTIVE_RING = "active-ring"
    SPIN_WAVE = "spin-wave"
    IKEDA = "ikeda"

    def make(self, d_in: tuple[int, int], d_out: tuple[int, int], seed: int = 0) -> Device:
        """Make the device for sequences `(time, drives)` with readings `(time, nodes)`, its settings slightly off.

        `seed` draws its random parts.
        """
        return Drifting(self.design(d_in, d_out, seed), initial=MISALIGNED, seed=seed)

    def design(self, d_in: tuple[int, int], d_out: tuple[int, int], seed: int = 0) -> Device:
        """Make the device without misalignment."""
        drawn = {"seed": seed} if self in _DRAWN else {}
        return _KINDS[self](*d_in, d_out[1], **drawn)


_KINDS: dict[Reservoirs, Callable[..., Device]] = {
    Reservoirs.ECHO_STATE: devices.EchoState,
    Reservoirs.ACTIVE_RING: devices.ActiveRing,
    Reservoirs.SPIN_WAVE: devices.SpinWaveScatterer,
    Reservoirs.IKEDA: devices.Ikeda,
}
_DRAWN = {Reservoirs.ECHO_STATE, Reservoirs.SPIN_WAVE}  # have fixed random weights
