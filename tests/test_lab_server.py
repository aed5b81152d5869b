"""A server: what it makes of wrong messages, how it is shared, protected and stopped."""

from __future__ import annotations

import itertools
import os
import random
import signal
import threading
import time
from pathlib import Path

import pytest
import torch

import blackprop as bp
from blackprop import errors
from blackprop.cli._lab_commands import Serve
from blackprop.core import metered
from blackprop.lab import Guarded, RemoteDevice, Server
from blackprop.lab.remote.client._connection import Connection
from blackprop.lab.remote.shared import _messages as say
from blackprop.lab.remote.shared import _rounds as rounds
from blackprop.lab.remote.shared import _wire as wire
from blackprop.lab.remote.shared._keys import client_pair, fingerprint
from serving import Recorder, eventually, lines, query, served


def memory() -> int:
    """The process's memory in KiB."""
    text = Path("/proc/self/status").read_text()
    return int(text.split("VmRSS:")[1].split()[0])


# ---- wrong messages -------------------------------------------------------------------------------------------------


def wrong_messages(session: str, boot: str):
    """Many ways to be wrong, from a seed; the last are true messages that say what they must not."""
    rng = random.Random(0)
    fields = {"id": 1, "session": session, "boot": boot, "fresh": False, "kinds": ["read"]}
    arrays = rounds.pack([query()])
    (true,) = wire.encode(say.ROUND, fields, arrays)
    while True:
        yield [rng.randbytes(rng.randrange(200))]
        yield [true[: rng.randrange(len(true))]]
        i = rng.randrange(len(true))
        yield [true[:i] + bytes([true[i] ^ (1 << rng.randrange(8))]) + true[i + 1 :]]
        yield [true + rng.randbytes(rng.randrange(1, 50))]
        yield [b"BPL3" + true[4:]]
        yield [b"BPL2" + rng.randbytes(60)] * rng.randrange(1, 20)
        yield [true[:40], rng.randbytes(2**18)]
        yield wire.encode(rng.choice(list(say._FIELDS)), {"id": rng.randrange(2**63)})
        yield wire.encode(say.ROUND, fields | {"session": rng.randbytes(16).hex()}, arrays)
        yield wire.encode(say.ROUND, fields, rng.sample(arrays, rng.randrange(3)))
        yield wire.encode(say.ROUND, fields, rounds.pack([bp.Query(query().x, query().theta * 9, bp.Purpose.FORWARD)]))


def test_a_thousand_wrong_messages_leave_the_server_serving(keys, record):
    with served(lambda: Recorder(record), keys) as server, RemoteDevice(server.address, keys=keys) as device:
        connection = Connection(server.address, keys)
        before = 0
        messages = wrong_messages(device._session, device._boot)
        for i, frames in zip(range(1200), messages, strict=False):
            if i == 200:
                before = memory()
            connection.send(frames)
            if i % 20 == 19:
                while connection.receive(0.02) is not None:
                    pass
        connection.close()
        assert lines(record) == []  # nothing of it was measured
        (y,) = device.measure([query(1)])
        assert torch.equal(y, query(1).x * query(1).theta)
        assert memory() - before < 10 * 1024
        assert server.report()["faults"] == 0
        assert server.report()["refused"] > 300
    assert len(lines(record)) == 3


def test_a_frame_that_is_too_long_ends_the_connection_before_it_is_taken(keys, record):
    with served(lambda: Recorder(record), keys) as server:
        connection = Connection(server.address, keys)
        connection.send([bytes(wire.FRAME_BYTES * 4)])
        assert connection.receive(0.3) is None
        connection.close()
        with RemoteDevice(server.address, keys=keys) as device:
            device.measure([query()])


def test_a_client_of_another_version_is_told_both(keys, record, monkeypatch):
    with served(lambda: Recorder(record), keys) as server:
        connection = Connection(server.address, keys)
        (true,) = wire.encode(say.HELLO, {"id": 1, "resume": ""})
        connection.send([b"BPL3" + true[4:]])
        reply = connection.hear(2)
        connection.close()
    assert reply is not None
    with pytest.raises(errors.ProtocolError, match=r"of version 3 .* version 2 is spoken here"):
        raise say.error_of(reply)


# ---- shared ---------------------------------------------------------------------------------------------------------


def test_two_clients_share_the_device_in_turns_and_each_ledger_is_exact(keys, record):
    ledgers = [bp.Ledger(), bp.Ledger()]
    failures: list[BaseException] = []

    def train(i: int) -> None:
        try:
            with RemoteDevice(server.address, keys=keys) as device:
                measure = metered(device, ledgers[i])
                theta = torch.full((3,), 1.0 - i)
                for k in range(30):
                    x = torch.full((1, 3), float(k))
                    (y,) = measure([bp.Query(x, theta, bp.Purpose.FORWARD)])
                    assert torch.equal(y, x * theta)
        except BaseException as error:
            failures.append(error)

    with served(lambda: Recorder(record, 0.005), keys, turn_seconds=0.04) as server:
        threads = [threading.Thread(target=train, args=(i,)) for i in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not failures
    assert [ledger.total_rows for ledger in ledgers] == [30, 30]
    written = lines(record, "program")
    assert sum(ledger.total_programmings for ledger in ledgers) == len(written)
    assert len(written) >= 6  # they took turns
    assert all(a != b for a, b in itertools.pairwise(written))


def test_a_client_that_died_frees_the_device_and_one_that_lives_keeps_it(keys, record):
    with served(lambda: Recorder(record), keys, lease_seconds=0.4, turn_seconds=60) as server:
        dead = RemoteDevice(server.address, keys=keys)
        dead.measure([query()])
        dead._connection.farewell = None  # it dies without a word
        dead.close()
        with RemoteDevice(server.address, keys=keys, wait=5) as device:
            begun = time.monotonic()
            device.measure([query(1)])
            assert 0.1 < time.monotonic() - begun < 3


def test_whoever_waits_too_long_is_told_that_the_device_is_held(keys, record):
    with (
        served(lambda: Recorder(record), keys, turn_seconds=60) as server,
        RemoteDevice(server.address, keys=keys) as first,
        RemoteDevice(server.address, keys=keys, wait=0.3) as late,
    ):
        first.measure([query()])
        with pytest.raises(errors.BusyError, match="held by another client"):
            late.measure([query(1)])
        first.measure([query(2)])
        first.close()
        late.measure([query(3)])
    assert [float(line[6:-1].split(",")[0]) for line in lines(record, "read")] == [1, 1, 3, 3, 4, 4]


def test_status_is_answered_while_a_round_is_long(keys, record):
    with served(lambda: Recorder(record, 1.0), keys) as server, RemoteDevice(server.address, keys=keys) as device:
        thread = threading.Thread(target=device.measure, args=([query()],))
        thread.start()
        time.sleep(0.3)
        connection = Connection(server.address, keys)  # a handshake, too
        begun = time.monotonic()
        report = connection.request(say.STATUS, say.REPORT, 2)["report"]
        assert time.monotonic() - begun < 0.5
        connection.close()
        thread.join()
    assert report["measuring"]
    assert report["lease"][0] == fingerprint(client_pair(keys)[0])


# ---- protected ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrong", [(3.0, 0.0, 0.0), (0.0, float("nan"), 0.0), (0.0, 0.0, -float("inf"))])
def test_no_setting_outside_the_limits_reaches_the_device(keys, record, wrong):
    with served(lambda: Recorder(record), keys) as server, RemoteDevice(server.address, keys=keys) as device:
        with pytest.raises(errors.LimitError, match="theta"):
            device.measure([query(), bp.Query(query().x, torch.tensor(wrong), bp.Purpose.FORWARD)])
        assert sum(device.repeated().rows.values()) == -4  # refused as a whole, and nothing was spent
        with pytest.raises(errors.LimitError, match="not finite"):
            device.measure([bp.Query(query().x / 0, query().theta, bp.Purpose.FORWARD)])
        with pytest.raises(errors.ShapeError, match="shape"):
            device.measure([bp.Query(torch.ones(2, 4), query().theta, bp.Purpose.FORWARD)])
        with pytest.raises(errors.ShapeError, match="shape"):
            device.measure([bp.Query(query().x, torch.ones(5), bp.Purpose.FORWARD)])
        assert lines(record) == []
        device.measure([query()])


def guarded(record):
    return Guarded(Recorder(record), park=torch.full((3,), 0.25))


PARKED = "program [0.25, 0.25, 0.25]"


def test_the_device_is_parked_when_its_client_leaves_and_at_the_end(keys, record):
    with served(lambda: guarded(record), keys) as server:
        with RemoteDevice(server.address, keys=keys) as device:
            device.measure([query()])
            assert PARKED not in lines(record)
        assert eventually(lambda: lines(record)[-1] == PARKED)
        with RemoteDevice(server.address, keys=keys) as device:
            device.measure([query()])
            device._connection.farewell = None
    assert lines(record).count(PARKED) == 2


def test_at_its_end_the_server_closes_the_device_and_says_where_it_could_not_be_parked(keys, record):
    class Closable(Recorder):
        jammed = True

        def program(self, theta):
            if self.jammed:
                self.jammed = False
                raise OSError("no link")
            super().program(theta)

        def close(self):
            self._write("closed")

    server = Server(lambda: Guarded(Closable(record), park=torch.full((3,), 0.25)), "tcp://127.0.0.1:0", keys=keys)
    server.stop()
    with pytest.raises(errors.DeviceError, match="could not be parked"):
        server.serve()
    assert lines(record) == ["closed"]


def test_a_veto_is_lifted_at_the_bench_and_the_server_serves_on(keys, record, tmp_path):
    stop = tmp_path / "stop"
    stop.touch()

    def interlock(theta, x):
        return "somebody is at the bench" if stop.exists() else None

    device = Guarded(Recorder(record), interlock=interlock, latch=False)
    with served(lambda: device, keys) as server, RemoteDevice(server.address, keys=keys) as remote:
        with pytest.raises(errors.InterlockError, match="somebody is at the bench"):
            remote.measure([query()])
        stop.unlink()
        assert torch.equal(remote.measure([query()])[0], query().x * query().theta)
    assert len(lines(record, "read")) == 2


def test_the_device_is_parked_when_its_client_falls_silent(keys, record):
    with (
        served(lambda: guarded(record), keys, lease_seconds=0.3) as server,
        RemoteDevice(server.address, keys=keys) as device,
    ):
        device.measure([query()])
        assert eventually(lambda: lines(record)[-1] == PARKED)
        ledger = bp.Ledger()
        metered(device, ledger)([query()])  # it comes back, and the device is programmed again
        assert (ledger.total_rows, ledger.total_programmings) == (2, 1)
    assert len(lines(record, "program [1.0")) == 2


# ---- the commands ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "either --keys DIR"),
        ({"insecure": True}, "package.module:factory"),
        ({"insecure": True, "factory": "nonsense"}, "package.module:factory"),
        ({"insecure": True, "factory": "no_such_module:make"}, "no_such_module"),
        ({"insecure": True, "factory": "builtins:dict"}, "not a `blackprop.Device`"),
        ({"insecure": True, "factory": "serving:free_port", "bind": "tcp://10.0.0.1:5"}, "not loopback"),
        ({"insecure": True, "factory": "builtins:dict", "bind": "udp://127.0.0.1:5"}, "tcp://host:port"),
        ({"insecure": True, "factory": "operator:not_", "bind": "tcp://127.0.0.1:0"}, "could not be made"),
        ({"insecure": True, "factory": "builtins:dict", "lease_seconds": 0}, "must be positive"),
    ],
)
def test_what_cannot_be_served_is_said_at_once(options, message, tmp_path, monkeypatch):
    from rich.console import Console

    monkeypatch.chdir(tmp_path)
    with pytest.raises(errors.BlackpropError, match=message):
        Serve(**({"bind": "tcp://127.0.0.1:0"} | options))(Console())


def test_two_servers_on_one_port_and_missing_keys_are_said_at_once(keys, record, tmp_path):
    with (
        served(lambda: Recorder(record), keys) as server,
        pytest.raises(errors.ArgumentError, match="does another server run there"),
    ):
        Server(lambda: Recorder(record), server.address, keys=keys)
    with pytest.raises(errors.ArgumentError, match="blackprop keys"):
        Server(lambda: Recorder(record), "tcp://127.0.0.1:0", keys=tmp_path / "nothing")


def test_the_status_is_shown(keys, record, capsys):
    from rich.console import Console

    with served(lambda: Recorder(record), keys) as server, RemoteDevice(server.address, keys=keys) as device:
        device.measure([query()])
        Serve(bind=server.address, keys=keys, status=True, once=True)(Console(width=120))
    text = capsys.readouterr().out
    assert "1 rounds, 2 rows, 1 programmings" in text
    assert fingerprint(client_pair(keys)[0]) in text


def test_descriptors_and_threads_are_given_back(keys, record):
    def once() -> None:
        with served(lambda: Recorder(record), keys) as server, RemoteDevice(server.address, keys=keys) as device:
            device.measure([query()])

    on_sigterm = signal.getsignal(signal.SIGTERM)
    once()
    descriptors, threads = len(os.listdir("/proc/self/fd")), threading.active_count()  # noqa: PTH208
    for _ in range(3):
        once()
    assert len(os.listdir("/proc/self/fd")) <= descriptors  # noqa: PTH208
    assert threading.active_count() == threads
    assert signal.getsignal(signal.SIGTERM) is on_sigterm
