"""How a client greets a server, and finds it again after a restart."""

from __future__ import annotations

import os
import time
import weakref
from typing import Any

import torch
from torch import Tensor

from blackprop.core._declaration import Declaration
from blackprop.core.capabilities._capability import Capability
from blackprop.devices import Device
from blackprop.errors import BusyError, DeviceError, ProtocolError
from blackprop.lab.remote.client._connection import Connection
from blackprop.lab.remote.client._timeouts import LAST
from blackprop.lab.remote.shared import _messages as say
from blackprop.lab.remote.shared import _wire as wire
from blackprop.lab.remote.shared._spec_codec import understand
from blackprop.lab.remote.shared._wire import Message


class Greeting(Device):
    """The part of a `RemoteDevice` that begins a session and goes on with it."""

    address: str
    wait: float
    _boot: str
    _connection: Connection
    _end: weakref.finalize[..., Any]
    _kinds: tuple[type[Capability], ...]
    _lease_seconds: float
    _process: int
    _resumed: bool
    _said: Any
    _session: str
    _spoke: float
    deadline: float

    def _greet(self, deadline: float) -> Declaration:
        """Say hello, again after a restart of the server, and return the declaration of its device."""
        welcome = self._hello(deadline)
        said = (welcome["device"], [array.tobytes() for array in welcome.arrays])
        if self._said is not None and said != self._said:
            raise DeviceError(f"the server at {self.address} was started again with another device: {said[0]}")
        spec = understand(welcome["device"], welcome.arrays, self._draw, self._kinds)
        self._said, self._boot, self._session = said, welcome["boot"], welcome["session"]
        self._connection.farewell = wire.encode(say.BYE, {"id": 0, "session": self._session})
        self._resumed, self._lease_seconds = welcome["resumed"], float(max(1, welcome["lease_milliseconds"])) / 1000
        self._spoke = time.monotonic()
        return spec

    def _hello(self, deadline: float) -> Message:
        """Say hello; where the server has no place for another session, wait for one as for the device."""
        end = time.monotonic() + self.wait
        while True:
            try:
                return self._connection.request(say.HELLO, say.WELCOME, deadline, resume=self._session)
            except BusyError:
                if time.monotonic() + LAST > end:
                    raise
                time.sleep(LAST)

    def _draw(self, generator: torch.Generator) -> Tensor:
        """Return initial values of the served device, from a seed that `generator` draws."""
        self._check_usable()
        seed = int(torch.randint(2**62, (), generator=generator, device=generator.device))
        reply = self._connection.request(say.DRAW, say.INITIAL, self.deadline, seed=seed)
        if len(reply.arrays) != 1 or reply.arrays[0].shape != (self.theta.size,):
            raise ProtocolError(f"{self} was asked for initial values (P,) and answered something else")
        return torch.from_numpy(reply.arrays[0])

    def _check_usable(self) -> None:
        if os.getpid() != self._process:
            raise DeviceError(f"{self} belongs to the process that made it; each makes one of its own")
        if not self._end.alive:
            raise DeviceError(f"{self} is closed")
