"""The setpoint of a guarded device: its motion in steps, and its parking."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from blackprop.core._query import Count, Purpose
from blackprop.devices import Device
from blackprop.errors import DeviceError
from blackprop.lab.wrappers._printable import error_text, printable


class SetpointTracker:
    """The setting that a device was last told to take, and the one at which it is parked.

    It is separate from the guard because it must outlive it: the finalizer that parks the device holds this alone.
    """

    def __init__(self, device: Device, park: Tensor | None, slew: float | None, idle: Tensor | None) -> None:
        self.device, self.park, self.slew, self.idle = device, park, slew, idle
        self.at: Tensor | None = None  # None: never told
        self.doubtful = False  # whether the last write failed, so that the device may still be where it was before
        self.parked = False
        self.steps = Count()  # programmings and rows by hand

    def begin(self, theta: Tensor) -> None:
        """Call before a write; `arrived` after it."""
        self.at, self.doubtful, self.parked = theta, True, False

    def arrived(self, held: Tensor | None = None) -> None:
        """Call after a write. `held`: the device's own copy of the setting, which is never written to."""
        if held is None and self.at is not None:
            held = self.at.detach().clone()
        self.at, self.doubtful = held, False

    def way(self, start: Tensor | None, theta: Tensor) -> Iterator[Tensor]:
        """The settings to write before `theta`, so that none moves a parameter by more than `slew`."""
        if self.slew is None:
            return
        if start is None:
            if self.park is None:
                return  # the setting of the device is unknown
            start = self.park.to(theta)
            yield start
        elif self.doubtful:
            yield start.to(theta)  # it stands here, or one step away
        start, end = start.to(theta).double(), theta.double()
        reach = float((end - start).abs().max())
        if reach <= self.slew:
            return
        steps = math.floor(reach / self.slew * (1 + 1e-6)) + 1
        for k in range(1, steps):
            yield start.lerp(end, k / steps).to(theta)

    def write(self, theta: Tensor, purpose: Purpose) -> None:
        """Program by hand."""
        self.steps.programmings[purpose] += 1
        self.begin(theta)
        self.device.forget()
        self.device.program(theta)
        self.arrived()

    def leave(self) -> None:
        """Write the parking setting and send the idle row, where there are any; it may be called at any time."""
        if self.doubtful and self.at is not None:
            self.at = self.at.detach().clone()  # the caller may reuse the memory
        if self.parked or (self.park is None and (self.idle is None or self.at is None)):
            return
        try:
            with torch.no_grad():
                self._park()
        except Exception as error:
            raise DeviceError(f"{printable(self.device)} could not be parked: {error_text(error)}") from error
        finally:
            self.device.forget()
        self.parked = True

    def _park(self) -> None:
        setting = self.at if self.park is None else self.park if self.at is None else self.park.to(self.at)
        assert setting is not None
        # Without a parking setting the present one is written again, because the state of the device is unknown.
        for theta in (*self.way(self.at, setting), setting):
            self.write(theta, Purpose.CALIBRATE)
        if self.idle is not None:
            self.steps.rows[Purpose.CALIBRATE] += 1
            self.device.read(self.idle.to(setting).unsqueeze(0))

    def leave_if_used(self) -> None:
        if self.at is not None:
            self.leave()
