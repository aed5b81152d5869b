"""A remote device: as exact as a local one, whatever is lost on the way, and whoever is killed."""

from __future__ import annotations

import os
import pickle
import threading
import time

import pytest
import torch

import blackprop as bp
from blackprop import errors
from blackprop.core import Count, metered
from blackprop.lab import RemoteDevice
from blackprop.lab.remote.client._connection import Connection
from blackprop.lab.remote.client._timeouts import Timeouts
from blackprop.lab.remote.shared import _messages as say
from blackprop.lab.remote.shared import _rounds as rounds
from blackprop.lab.remote.shared import _wire as wire
from serving import Recorder, ServerProcess, eventually, free_port, lines, query, served
from support import draw, make_layer


class BadConnection(Connection):
    """Loses, damages and doubles messages, both ways, from a seed."""

    generator = torch.Generator()
    lost = damaged = 0

    def _chance(self) -> float:
        return float(torch.rand((), generator=self.generator))

    def _spoilt(self, frames):
        """The frames as they arrive, None where they do not."""
        chance = self._chance()
        if chance < 0.1:
            BadConnection.lost += 1
            return None
        if chance < 0.15:
            BadConnection.damaged += 1
            first = bytearray(frames[0])
            first[int(self._chance() * len(first))] ^= 4
            return [first, *frames[1:]]
        return frames

    def send(self, frames):
        spoilt = self._spoilt(frames)
        if spoilt is not None:
            for _ in range(1 + (self._chance() < 0.1)):
                super().send(spoilt)

    def receive(self, seconds):
        frames = super().receive(seconds)
        return frames if frames is None else self._spoilt(frames)


class OverBadConnection(RemoteDevice):
    def _connect(self):
        return BadConnection(self.address, self._keys)


class Failing(Recorder):
    """Raises what it is told by the first entry of a row."""

    def read(self, x):
        kinds = {7.0: errors.ReadingError, 8.0: errors.InterlockError, 9.0: ZeroDivisionError}
        if kind := kinds.get(float(x[0, 0])):
            raise kind("the laser is off")
        if float(x[0, 0]) == 10.0:
            return x * torch.nan
        return super().read(x)[:, :2] if float(x[0, 0]) == 11.0 else super().read(x)


# ---- as a local one -------------------------------------------------------------------------------------------------


def test_a_remote_device_is_the_device(keys):
    local = bp.devices.LightModulator(6, 4)
    served_ = served(lambda: bp.devices.LightModulator(6, 4), keys)
    with served_ as server, RemoteDevice(server.address, keys=keys) as device:
        here, there = local.declaration, device.declaration
        for name in ("in_shape", "out_shape", "linear", "coupling", "cost", "noise"):
            assert getattr(there, name) == getattr(here, name)
        assert there.oracle is None
        assert device.theta.size == local.theta.size
        thetas, xs = draw(3, 24), [draw(5, 6), draw(2, 6, seed=1)]
        queries = [bp.Query(xs[i % 2], thetas[i // 2], bp.Purpose.PARAMETER) for i in range(6)]
        for y, expected in zip(device.measure(queries), local.measure(queries), strict=True):
            assert torch.equal(y, expected)
        assert device.repeated() == Count()
        draws = [device.theta.draw(torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)]
        assert torch.equal(draws[0], draws[1])
        assert not torch.equal(draws[0], draws[2])


def test_a_remote_device_keeps_the_contract_of_devices(keys):
    from blackprop.testing import check_device

    served_ = served(lambda: bp.devices.LightModulator(6, 4), keys)
    with served_ as server, RemoteDevice(server.address, keys=keys) as device:
        check_device(device)


def test_by_hand_it_is_programmed_at_once_and_read_at_that_setting(keys, record):
    theta, x = torch.tensor([1.0, 0.5, -1.0]), torch.ones(2, 3)
    with served(lambda: Recorder(record), keys) as server, RemoteDevice(server.address, keys=keys) as device:
        with pytest.raises(errors.ArgumentError, match="must be programmed"):
            device.read(x)
        device.program(theta)
        assert lines(record) == ["program [1.0, 0.5, -1.0]"]
        assert torch.equal(device.read(x), x * theta)
        with pytest.raises(errors.LimitError):
            device.program(theta * 3)
        assert len(lines(record, "read")) == 2


def test_forgetting_makes_the_server_write_the_setting_again(keys, record):
    with served(lambda: Recorder(record), keys) as server, RemoteDevice(server.address, keys=keys) as device:
        ledger = bp.Ledger()
        measure = metered(device, ledger)
        measure([query()])
        measure([query(1)])
        device.forget()
        measure([query(2)])
    assert len(lines(record, "program")) == ledger.total_programmings == 2


def test_a_pickled_device_connects_anew_and_a_fork_or_a_closed_one_says_so(keys, record, monkeypatch):
    with served(lambda: Recorder(record), keys) as server:
        with RemoteDevice(server.address, keys=keys, wait=7) as device:
            with pickle.loads(pickle.dumps(device)) as other:
                assert (other.wait, other._session == device._session) == (7, False)
                assert torch.equal(other.measure([query()])[0], query().x * query().theta)
            monkeypatch.setattr(os, "getpid", lambda: -1)
            with pytest.raises(errors.DeviceError, match="process that made it"):
                device.measure([query()])
            monkeypatch.undo()
        with pytest.raises(errors.DeviceError, match="closed"):
            device.measure([query()])


# ---- errors ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("k", "kind", "message"),
    [
        (6, errors.ReadingError, "^the laser is off$"),
        (7, errors.InterlockError, "^the laser is off$"),
        (8, errors.DeviceError, "^ZeroDivisionError: the laser is off$"),
        (9, errors.ReadingError, "not finite"),
        (10, errors.ReadingError, "shape"),
    ],
)
def test_errors_of_the_device_come_back_as_what_they_are(keys, record, k, kind, message):
    with served(lambda: Failing(record), keys) as server, RemoteDevice(server.address, keys=keys) as device:
        ledger = bp.Ledger()
        with pytest.raises(kind, match=message) as caught:
            metered(device, ledger)([query(k)])
        assert type(caught.value) is kind
        assert (ledger.total_rows, ledger.total_programmings) == (2, 1)
        metered(device, ledger)([query()])
        assert server.report()["faults"] == (k < 9)


@pytest.mark.parametrize(
    ("address", "kind", "message"),
    [
        ("tcp://no-such-host.invalid:5555", errors.UnreachableError, "no host 'no-such-host.invalid'"),
        ("tcp://127.0.0.1", errors.ArgumentError, "tcp://host:port"),
        ("tcp://127.0.0.1:99999", errors.ArgumentError, "tcp://host:port"),
        ("http://127.0.0.1:80", errors.ArgumentError, "tcp://host:port"),
        (None, errors.UnreachableError, "Does the server run"),
    ],
)
def test_an_address_at_which_nobody_answers_is_said_within_the_deadline(keys, address, kind, message):
    begun = time.monotonic()
    with pytest.raises(kind, match=message):
        RemoteDevice(address or f"tcp://127.0.0.1:{free_port()}", keys=keys, deadline=0.5)
    assert time.monotonic() - begun < 3


def test_a_server_that_falls_silent_is_said_and_the_same_round_keeps_its_number(keys, record):
    process = ServerProcess(keys, record)
    try:
        with RemoteDevice(process.address, keys=keys, deadline=0.5) as device:
            device.measure([query()])
            process.kill()
            with pytest.raises(errors.UnreachableError, match="Does the server run"):
                device.measure([query(1)])
            assert device.programmed is None
            process.start()
            device.deadline = 10
            (y,) = device.measure([query(1)])
            assert torch.equal(y, query(1).x * query(1).theta)
            assert device._number == 2
    finally:
        process.kill()
    assert len(lines(record, "read")) == 4


# ---- what is lost on the way ----------------------------------------------------------------------------------------


def train(device: bp.Device, steps: int = 20) -> tuple[list[torch.Tensor], bp.Ledger]:
    torch.manual_seed(0)
    layer = make_layer(device)
    model = torch.nn.Sequential(torch.nn.Linear(5, 3), layer)
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    for step in range(steps):
        optimizer.zero_grad()
        (model(draw(4, 5, seed=step)) - 1).square().mean().backward()
        optimizer.step()
        with torch.no_grad():
            layer.theta.clamp_(-2, 2)
    return [p.detach().clone() for p in model.parameters()], layer.ledger


def test_training_over_a_bad_link_ends_with_the_same_weights_and_nothing_is_measured_twice(keys, record, tmp_path):
    BadConnection.generator.manual_seed(1)
    BadConnection.lost = BadConnection.damaged = 0
    with served(lambda: Recorder(record), keys) as server, OverBadConnection(server.address, keys=keys) as device:
        weights, ledger = train(device)
    smooth = tmp_path / "smooth"
    expected, undisturbed = train(Recorder(smooth))
    assert BadConnection.lost > 3
    assert BadConnection.damaged > 3
    for there, here in zip(weights, expected, strict=True):
        assert torch.equal(there, here)
    assert ledger == undisturbed
    assert lines(record) == lines(smooth)


# ---- measured once ---------------------------------------------------------------------------------------------------


def test_a_round_that_is_asked_again_is_not_measured_again(keys, record):
    with served(lambda: Recorder(record), keys) as server, RemoteDevice(server.address, keys=keys) as device:
        (expected,) = device.measure([query()])
        frames = wire.encode(
            say.ROUND,
            {"id": 1, "session": device._session, "boot": device._boot, "fresh": True, "kinds": ["read"]},
            rounds.pack([query()]),
        )
        for _ in range(3):
            device._connection.send(frames)
            answer = device._connection.hear(2)
            assert answer is not None
            assert torch.equal(torch.from_numpy(answer.arrays[0]), expected)
        device.measure([query(1)])
        device._connection.send(frames)  # an old one, late
        assert device._connection.hear(0.2) is None
    assert len(lines(record, "read")) == 4
    assert len(lines(record, "program")) == 1


# ---- stopped and killed ---------------------------------------------------------------------------------------------


def test_a_process_that_is_told_to_stop_finishes_its_round_and_answers(keys, record):
    process = ServerProcess(keys, record, seconds=0.6)
    with RemoteDevice(process.address, keys=keys) as device:
        answers: list[torch.Tensor] = []
        thread = threading.Thread(target=lambda: answers.extend(device.measure([query()])))
        thread.start()
        assert eventually(lambda: bool(lines(record, "program")))
        code, text = process.terminate()
        thread.join()
        device._connection.farewell = None
    assert code == 0
    assert "parked" in text
    assert torch.equal(answers[0], query().x * query().theta)


def test_a_server_that_is_killed_between_rounds_costs_one_programming_and_no_row(keys, record):
    process = ServerProcess(keys, record)
    ledger = bp.Ledger()
    try:
        with RemoteDevice(process.address, keys=keys) as device:
            measure = metered(device, ledger)
            for k in range(3):
                measure([query(k)])
                process.kill()
                process.start()
            measure([query(9)])
    finally:
        process.kill()
    assert len(lines(record, "read")) == ledger.total_rows == 8
    assert len(lines(record, "program")) == ledger.total_programmings == 4


@pytest.mark.parametrize("repeat", [False, True])
def test_a_round_in_which_the_server_was_killed_is_in_doubt(keys, record, repeat):
    process = ServerProcess(keys, record, seconds=0.5)
    ledger = bp.Ledger()
    outcome: list[object] = []

    def ask() -> None:
        try:
            outcome.append(measure([query(1)]))
        except errors.DeviceError as error:
            outcome.append(error)

    try:
        with RemoteDevice(process.address, keys=keys, repeat_in_doubt=repeat) as device:
            measure = metered(device, ledger)
            measure([query()])
            thread = threading.Thread(target=ask)
            thread.start()
            time.sleep(0.25)
            process.kill()
            process.start()
            thread.join()
            assert len(lines(record, "read")) == (4 if repeat else 2)
            if repeat:
                assert isinstance(outcome[0], list)
                assert ledger.total_rows == 6  # the one in doubt is booked, too
            else:
                assert isinstance(outcome[0], errors.InDoubtError)
                assert ledger.total_rows == 4
            measure([query(2)])
    finally:
        process.kill()


def test_an_answer_that_was_lost_with_the_server_comes_from_the_journal(keys, record):
    process = ServerProcess(keys, record)
    try:
        with RemoteDevice(process.address, keys=keys) as device:
            device.measure([query()])
            fields = {"id": 2, "session": device._session, "boot": device._boot, "fresh": False, "kinds": ["read"]}
            device._connection.send(wire.encode(say.ROUND, fields, rounds.pack([query(5)])))
            assert eventually(lambda: len(lines(record, "read")) == 4)
            time.sleep(0.1)
            process.kill()
            while device._connection.receive(0.1) is not None:  # the answer is lost
                pass
            process.start()
            device._number = 1
            (y,) = device.measure([query(5)])
    finally:
        process.kill()
    assert torch.equal(y, query(5).x * query(5).theta)
    assert len(lines(record, "read")) == 4


# ---- patience -------------------------------------------------------------------------------------------------------


def test_timeouts_count_the_time_in_the_queue_apart():
    timeouts = Timeouts(0.0, deadline=5, wait=60, first=0.0, last=10)
    assert timeouts.pause == 0.05
    timeouts.queued(1.0)
    timeouts.queued(2.0)
    assert (timeouts.in_queue(11.0), timeouts.gone(11.0)) == (10.0, 1.0)
    timeouts.moving(11.0)
    assert (timeouts.in_queue(20.0), timeouts.gone(15.0)) == (10.0, 5.0)
    pauses = []
    for _ in range(7):
        timeouts.asked()
        pauses.append(timeouts.pause)
    assert pauses == pytest.approx([0.1, 0.2, 0.4, 0.8, 1, 1, 1])
    assert Timeouts(0.0, 5, 60, first=100.0, last=10).pause == 10
