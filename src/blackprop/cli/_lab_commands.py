"""The commands about a device of yours: `blackprop check-device`, `characterise`, `deploy`, `serve`, `keys`."""

from __future__ import annotations

import importlib
import signal
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import tyro
from rich.console import Console
from torch import nn

from blackprop.devices import Device
from blackprop.errors import ArgumentError


@dataclass(frozen=True)
class CheckDevice:
    """Check a device of yours against its declaration, with the contract tests of blackprop.testing."""

    factory: tyro.conf.Positional[str]
    """package.module:factory, a function of no arguments that returns the device."""

    def __call__(self, console: Console) -> None:
        from blackprop.testing import check_device  # noqa: PLC0415  # used by this command alone

        console.print(str(check_device(_device(self.factory))), highlight=False, soft_wrap=True)


@dataclass(frozen=True)
class Characterise:
    """Measure the properties of a device of yours and write a report with its declaration."""

    factory: tyro.conf.Positional[str]
    """package.module:factory, a function of no arguments that returns the device."""
    rows: int | None = None
    """The most rows that may be asked; by default as many as it takes."""
    programmings: int | None = None
    """The most programmings that may be asked."""
    scale: float = 1.0
    """The root mean square of the entries of the rows that the device will be used with; three times that is tried."""
    output: Path | None = None
    """The folder for report.txt, report.json and report.html; by default only the text is printed."""

    def __call__(self, console: Console) -> None:
        from blackprop.characterisation import characterise  # noqa: PLC0415
        from blackprop.core._budget import Budget  # noqa: PLC0415

        budget = Budget(rows=self.rows, programmings=self.programmings)
        found = characterise(_device(self.factory), budget, scale=self.scale)
        console.print(str(found), highlight=False, soft_wrap=True, markup=False)
        if self.output is not None:
            console.print(found.save(self.output), highlight=False, soft_wrap=True, markup=False)


@dataclass(frozen=True)
class Deploy:
    """Carry a trained model to devices of yours, stage by stage, and write its settings."""

    model: tyro.conf.Positional[str]
    """package.module:factory, a function of no arguments that returns the trained model."""
    devices: tyro.conf.Positional[str]
    """package.module:factory, a function that returns the devices: one, a list, or a dictionary by names of layers."""
    data: str | None = None
    """package.module:factory, a function that returns rows, or rows and targets; by default rows are random."""
    rows: int | None = None
    """The most rows that may be asked; by default as many as it takes."""
    programmings: int | None = None
    """The most programmings that may be asked."""
    steps: int = 10
    """The most steps in place."""
    output: Path | None = None
    """The folder for settings.safetensors and deployment.json; by default only the report is printed."""

    def __call__(self, console: Console) -> None:
        from blackprop.core._budget import Budget  # noqa: PLC0415
        from blackprop.deployment import deploy  # noqa: PLC0415

        model, devices = factory_of(self.model)(), factory_of(self.devices)()
        if not isinstance(model, nn.Module):
            raise ArgumentError(f"{self.model} returned a {type(model).__name__}, not a torch module")
        data = None if self.data is None else factory_of(self.data)()
        budget = Budget(rows=self.rows, programmings=self.programmings)
        report = deploy(model, devices, data, budget=budget, steps=self.steps)
        console.print(str(report), highlight=False, soft_wrap=True, markup=False)
        if self.output is not None:
            console.print(report.save(self.output), highlight=False, soft_wrap=True, markup=False)


@dataclass(frozen=True)
class Serve:
    """Serve a device of yours over the network, to clients whose keys are authorised; Ctrl-C ends it in order."""

    factory: tyro.conf.Positional[str | None] = None
    """package.module:factory, a function of no arguments that returns the device."""
    bind: str = "tcp://127.0.0.1:5555"
    """The address: tcp://host:port."""
    keys: Path | None = None
    """The folder that `blackprop keys` made."""
    journal: Path | None = None
    """The folder that remembers the last answers; by default journal in that of the keys."""
    lease_seconds: float = 30.0
    """A client that is silent for so long gives the device free."""
    turn_seconds: float = 10.0
    """A client measures for so long, at least, while others wait."""
    insecure: bool = False
    """Serve everyone on this machine, without keys; no other address is allowed."""
    status: bool = False
    """Show how the server that runs at --bind is doing, in place of serving."""
    once: bool = False
    """With --status: once, and not until Ctrl-C."""

    def __call__(self, console: Console) -> None:
        if (self.keys is None) != self.insecure:
            raise ArgumentError("`serve` needs either --keys DIR (`blackprop keys DIR` makes them) or --insecure")
        if self.status:
            from blackprop.lab.remote.client._status import show_status  # noqa: PLC0415  # used by this command alone

            show_status(self.bind, self.keys, console, once=self.once)
            return
        if self.factory is None:
            raise ArgumentError("`serve` needs the device, package.module:factory")
        make = device_factory(self.factory)
        from blackprop.lab.remote.server._server import Server  # noqa: PLC0415
        from blackprop.lab.remote.shared import _own_process as own_process  # noqa: PLC0415
        from blackprop.lab.wrappers._printable import printable  # noqa: PLC0415

        server = Server(
            make,
            self.bind,
            keys=self.keys,
            journal=self.journal or (Path("blackprop-journal") if self.insecure else None),
            lease_seconds=self.lease_seconds,
            turn_seconds=self.turn_seconds,
        )
        if threading.current_thread() is threading.main_thread():
            own_process.settle()
        _stop_on_signals(server.stop)
        whom = "everyone on this machine" if server.clients is None else f"{server.clients} authorised keys"
        device = printable(server.device)
        console.print(f"serving {device} at {server.address} to {whom}", highlight=False, markup=False, soft_wrap=True)
        server.serve()
        console.print("the device is parked, the server has ended", highlight=False)


@dataclass(frozen=True)
class Keys:
    """Make the keys of a server and of one client, who is authorised."""

    folder: tyro.conf.Positional[Path]
    """The folder for them; files in it are never replaced."""

    def __call__(self, console: Console) -> None:
        from blackprop.lab.remote.shared._keys import client_pair, fingerprint, make_keys  # noqa: PLC0415  # needs the extra `lab`

        for path in make_keys(self.folder):
            console.print(path, highlight=False, soft_wrap=True)
        public, _, server = client_pair(self.folder)
        console.print(f"server {fingerprint(server)}, client {fingerprint(public)}", highlight=False, soft_wrap=True)


def _device(name: str) -> Device:
    """The device that `package.module:factory` makes."""
    device = device_factory(name)()
    if not isinstance(device, Device):
        raise ArgumentError(f"{name} returned a {type(device).__name__}, not a `blackprop.Device`")
    return device


def device_factory(name: str) -> Callable[[], Device]:
    """The function `package.module:factory` of a device."""
    return factory_of(name, "a device")


def factory_of(name: str, what: str = "a model, devices or data") -> Callable[[], Any]:
    """The function `package.module:factory`; modules are looked for in the present folder too."""
    module_name, colon, factory_name = name.partition(":")
    if not colon or not module_name or not factory_name:
        raise ArgumentError(f"{what} is named as package.module:factory, got {name!r}")
    sys.path.insert(0, str(Path.cwd()))
    try:
        return getattr(importlib.import_module(module_name), factory_name)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a module of the user's may raise anything, `SystemExit` too
        from blackprop.lab.wrappers._printable import error_text  # noqa: PLC0415

        raise ArgumentError(f"{name!r} cannot be imported: {error_text(error)}") from error
    finally:
        sys.path.pop(0)


def _stop_on_signals(stop: Callable[[], None]) -> None:
    """SIGTERM and Ctrl-C end the server in order; a second one at once."""
    if threading.current_thread() is not threading.main_thread():
        return

    def handle(number: int, frame: FrameType | None) -> None:
        del frame
        signal.signal(number, signal.SIG_DFL if number != signal.SIGINT else signal.default_int_handler)
        stop()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, handle)
