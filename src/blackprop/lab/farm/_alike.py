"""The check that the members of a farm are alike."""

from __future__ import annotations

import torch
from torch import Tensor

from blackprop.devices._base import Device
from blackprop.errors import ArgumentError


def check_alike(owner: str, devices: list[Device]) -> None:
    if not devices or not all(isinstance(device, Device) for device in devices):
        raise ArgumentError(f"`{owner}(devices)` takes Devices, one at least, got {devices!r}")
    if len({id(device) for device in devices}) != len(devices):
        raise ArgumentError(f"`{owner}(devices)` takes each device once: one serves one thread at a time")
    first = devices[0]
    for at, other in enumerate(devices[1:], start=1):
        for name in ("in_shape", "out_shape", "linear", "coupling", "x_low", "x_high", "rows_each"):
            _check_same(owner, at, name, getattr(first, name), getattr(other, name))
        for name in ("size", "low", "high", "period", "harmonics"):
            _check_same(owner, at, f"theta.{name}", getattr(first.theta, name), getattr(other.theta, name))


def _check_same(owner: str, at: int, name: str, wanted: object, got: object) -> None:
    if isinstance(wanted, Tensor) and isinstance(got, Tensor):
        same = torch.equal(wanted, got)
    else:
        same = not isinstance(wanted, Tensor) and not isinstance(got, Tensor) and wanted == got
    if not same:
        raise ArgumentError(
            f"`{owner}(devices)` takes alike ones: {name} of device 0 is {wanted}, of device {at} {got}"
        )
