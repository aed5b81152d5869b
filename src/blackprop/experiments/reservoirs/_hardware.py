"""The reservoirs that methods are compared on, by their names on the command line."""

from __future__ import annotations

import enum

from blackprop import devices
from blackprop.devices import Device, Drifting

MISALIGNED = 0.02  # the standard deviation of an offset that every setting has, and that nobody knows


class Reservoirs(enum.Enum):
    """A kind of reservoir; the value is its name in files and on the command line."""

    ECHO_STATE = "echo-state"
    ACTIVE_RING = "active-ring"
    SPIN_WAVE = "spin-wave"
    IKEDA = "ikeda"

    def make(self, in_shape: tuple[int, int], out_shape: tuple[int, int], seed: int) -> Device:
        """The device for sequences `(time, drives)` that is read as `(time, nodes)`, its settings a little off; what is
        random in it by `seed`.
        """
        return Drifting(self.design(in_shape, out_shape, seed), initial=MISALIGNED, seed=seed)

    def design(self, in_shape: tuple[int, int], out_shape: tuple[int, int], seed: int) -> Device:
        """The device as it was meant."""
        (time, channels), nodes = in_shape, out_shape[1]
        match self:
            case Reservoirs.ECHO_STATE:
                return devices.EchoState(time, channels, nodes, seed=seed)
            case Reservoirs.ACTIVE_RING:
                return devices.ActiveRing(time, channels, nodes)
            case Reservoirs.SPIN_WAVE:
                return devices.SpinWaveScatterer(time, channels, nodes, seed=seed)
            case Reservoirs.IKEDA:
                return devices.Ikeda(time, channels, nodes)
