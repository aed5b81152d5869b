"""An error that a driver raises at any moment reaches the client, and the server continues to serve."""

from __future__ import annotations

import pytest
import torch

import blackprop as bp
from blackprop import errors
from blackprop.lab import Guarded, RemoteDevice, Server
from blackprop.lab.remote.client._connection import Connection
from blackprop.lab.remote.server import _server as server_module
from blackprop.lab.remote.shared import _messages as say
from serving import Mute, Recorder, eventually, lines, query, served

HOSTILE = "\x1b[2J\x1b]0;owned\x07 \u202emoc.live \ud800"


def harmless(text: str) -> bool:
    """Whether a text may be printed on a terminal and sent as UTF-8."""
    text.encode()
    return text.isprintable()


class Deadly(Exception):
    def __str__(self):
        raise SystemExit(3)


class Endless(Exception):
    def __str__(self):
        return "x" * 10**7


RAISED = {
    "lone surrogate": lambda: ValueError("\ud800"),
    "control codes": lambda: errors.InterlockError(HOSTILE),
    "no text": Mute,
    "text that ends": Deadly,
    "endless text": Endless,
    "SystemExit": lambda: SystemExit(0),
    "GeneratorExit": GeneratorExit,
    "a class without a name": lambda: type("\ud800" * 500, (Exception,), {})("x"),
}


@pytest.mark.parametrize("where", ["read", "program", "forget", "repeated"])
@pytest.mark.parametrize("what", RAISED)
def test_whatever_a_driver_raises_is_told_and_the_server_serves_on(keys, record, what, where):
    class Raising(Recorder):
        armed = False

        def _once(self, method):
            if method == where and self.armed:
                self.armed = False
                raise RAISED[what]()

        def read(self, x):
            self._once("read")
            return super().read(x)

        def program(self, theta):
            self._once("program")
            super().program(theta)

        def forget(self):
            self._once("forget")
            super().forget()

        def repeated(self):
            self._once("repeated")
            return super().repeated()

    driver = Raising(record)
    with served(lambda: driver, keys) as server, RemoteDevice(server.address, keys=keys, deadline=5) as device:
        device.measure([query()])
        device.forget()
        driver.armed = True
        with pytest.raises(errors.DeviceError) as caught:
            device.measure([query(1)])
        assert harmless(str(caught.value))
        assert len(str(caught.value)) <= say.TEXT
        (y,) = device.measure([query(2)])
        assert torch.equal(y, query(2).x * query(2).theta)
        assert all(harmless(text) for _, text in server.report()["last_faults"])


def test_initial_values_that_end_the_process_and_a_name_that_cannot_be_encoded_end_no_server(keys, record):
    def draw(generator):
        raise SystemExit(1)

    class Named(bp.Device):
        def __init__(self):
            super().__init__(3, 3, bp.ThetaSpec(3, initial=draw))

        def program(self, theta):
            pass

        def read(self, x):
            return x

        def __repr__(self):
            return HOSTILE * 100

    with served(Named, keys) as server, RemoteDevice(server.address, keys=keys, deadline=5) as device:
        with pytest.raises(errors.DeviceError, match="SystemExit"):
            device.theta.draw(torch.Generator().manual_seed(0))
        assert device.measure([query()])[0].shape == (2, 3)
        assert harmless(str(device))
        connection = Connection(server.address, keys)
        assert connection.request(say.STATUS, say.REPORT, 5)["report"]["device"]
        connection.close()


def test_a_factory_that_ends_the_process_and_a_close_that_does_are_said(keys, record):
    def make():
        raise SystemExit("no licence")

    with pytest.raises(errors.DeviceError, match="could not be made: SystemExit: no licence"):
        Server(make, "tcp://127.0.0.1:0", keys=keys)

    class Closable(Recorder):
        def close(self):
            raise SystemExit(4)

    server = Server(lambda: Closable(record), "tcp://127.0.0.1:0", keys=keys)
    server.stop()
    with pytest.raises(errors.DeviceError, match="could not be closed: SystemExit"):
        server.serve()


def test_a_device_that_cannot_be_described_in_a_message_is_refused_at_once(keys, record):
    wide = bp.ThetaSpec(2**26, low=torch.zeros(()).expand(2**26), high=1.0)

    class Wide(Recorder):
        def __init__(self):
            super().__init__(record)
            self.theta = wide

    with pytest.raises(errors.ArgumentError, match="at most 256 MiB"):
        Server(Wide, "tcp://127.0.0.1:0", keys=keys)


@pytest.mark.parametrize("error", [OSError("the stage is stuck"), SystemExit(1), Mute()])
def test_parking_that_fails_is_tried_again_until_it_succeeds(keys, record, monkeypatch, error):
    monkeypatch.setattr(server_module, "PARK_AGAIN", (0.02, 0.1))

    class Stuck(Recorder):
        failures = 0

        def program(self, theta):
            if float(theta[0]) == 0.25 and self.failures < 4:
                self.failures += 1
                raise error
            super().program(theta)

    guard = Guarded(Stuck(record), park=torch.full((3,), 0.25))
    with served(lambda: guard, keys) as server:
        with RemoteDevice(server.address, keys=keys) as device:
            device.measure([query()])
        assert eventually(lambda: lines(record)[-1] == "program [0.25, 0.25, 0.25]")
        assert server.report()["faults"] == 4
        assert "not parked" in str(server.report()["last_faults"])
    assert len(lines(record, "program [0.25")) == 1
