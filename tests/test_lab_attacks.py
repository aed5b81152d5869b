"""A served device under attack: by drivers that raise anything, by clients that send anything, by full disks."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest
import torch

import blackprop as bp
from blackprop import errors
from blackprop.core import metered
from blackprop.lab import RemoteDevice, Server
from blackprop.lab.remote.client._connection import Connection
from blackprop.lab.remote.client._status import render
from blackprop.lab.remote.shared import _messages as say
from blackprop.lab.remote.shared import _rounds as rounds
from blackprop.lab.remote.shared import _sockets
from blackprop.lab.remote.shared import _wire as wire
from blackprop.lab.remote.shared._keys import make_keys
from blackprop.lab.remote.shared._quota import FairQuota
from blackprop.lab.wrappers._printable import error_text, printable
from serving import Mute, Recorder, eventually, lines, query, served

HOSTILE = "\x1b[2J\x1b]0;owned\x07 \u202emoc.live \ud800"


def round_of(device: RemoteDevice, number: int, arrays: list[np.ndarray], kind: str = say.ROUND) -> list[wire.Buffer]:
    fields = {"id": number, "session": device._session, "boot": device._boot, "fresh": True, "kinds": ["read"]}
    return wire.encode(kind, fields, arrays)


def harmless(text: str) -> bool:
    """Whether a text may be printed on a terminal and sent as UTF-8."""
    text.encode()
    return text.isprintable()


# ---- what is printed -------------------------------------------------------------------------------------------------


def test_text_from_elsewhere_is_escaped():
    assert printable("a \x1b[1m\n\tb\u202e\ud800\x00") == r"a \x1b[1m b\u202e\ud800\x00"
    assert printable("µ, θ and 中 stay") == "µ, θ and 中 stay"
    assert len(printable("\x1b" * 5000)) == 1000
    assert error_text(Mute()) == "Mute: (no text: its __str__ raised RuntimeError)"


def test_a_hostile_server_writes_nothing_on_its_clients_terminal():
    spent = {"rows": {}, "programmings": {}}
    error = say.error_of(wire.Message(say.ERROR, {"error": "InterlockError", "text": HOSTILE, **spent}))
    assert type(error) is errors.InterlockError
    assert harmless(str(error))


def test_a_hostile_status_writes_nothing_on_the_terminal_and_a_broken_one_is_said(keys, record, capsys):
    from rich.console import Console

    with served(lambda: Recorder(record), keys) as server:
        report = server.report()
    texts = {"device": HOSTILE, "address": HOSTILE, "lease": [HOSTILE, 1.0], "queue": [HOSTILE + "[red]"] * 3}
    texts["clients"] = [{"key": HOSTILE + "[/]", "rounds": 1, "rows": 1, "seen": 1.0}]
    Console(width=200).print(render(report | texts | {"last_faults": [[1.0, HOSTILE]]}))
    shown = capsys.readouterr().out
    assert "owned" in shown
    assert all(harmless(line) for line in shown.splitlines())
    for broken in ({"rounds": "\x1b"}, {"clients": [1]}, {"lease": 3}, {"last_faults": [[]]}, {"uptime": None}):
        with pytest.raises(errors.ProtocolError, match="cannot be read"):
            render(report | broken)
    with pytest.raises(errors.ProtocolError):
        render({})


def test_the_command_prints_no_control_codes_of_the_device(keys, record, capsys, monkeypatch):
    from rich.console import Console

    from blackprop.cli._lab_commands import Serve

    class Named(Recorder):
        def __repr__(self):
            return HOSTILE + "[/red]"

    monkeypatch.setattr("blackprop.cli._lab_commands.device_factory", lambda name: lambda: Named(record))
    serve = Server.serve
    monkeypatch.setattr(Server, "serve", lambda self: (self.stop(), serve(self)))
    Serve("x:y", "tcp://127.0.0.1:0", keys)(Console(width=200))
    assert all(harmless(line) for line in capsys.readouterr().out.splitlines())


# ---- rounds ----------------------------------------------------------------------------------------------------------

SPEC = bp.devices.LightModulator(6, 4).declaration


def arrays_of(settings: int, table: list[list[int]], rows: int = 2) -> list[np.ndarray]:
    return [np.zeros((rows, 6), "<f4"), np.zeros((settings, 24), "<f4"), np.array(table, "<i8")]


def test_more_settings_than_queries_are_refused():
    rounds.unpack(arrays_of(2, [[0, 2, 0, 0, 0], [0, 2, 1, 0, 0]]), SPEC)
    rounds.unpack(arrays_of(2, [[0, 2, 0, 0, 0], [0, 2, 0, 0, 0]]), SPEC)
    with pytest.raises(errors.ProtocolError, match="2 queries with 3 settings"):
        rounds.unpack(arrays_of(3, [[0, 2, 0, 0, 0], [0, 2, 1, 0, 0]]), SPEC)
    with pytest.raises(errors.ProtocolError, match="0 queries"):
        rounds.unpack([*arrays_of(0, [])[:2], np.zeros((0, 5), "<i8")], SPEC)


def test_a_round_is_checked_in_no_more_memory_than_its_arrays():
    import tracemalloc

    spec = bp.devices.from_callable(lambda x, theta: x, in_shape=6, out_shape=6, theta_size=1, low=0.0).declaration
    n = rounds.QUERIES
    table = np.stack([np.zeros(n), np.ones(n), np.arange(n), np.zeros(n), np.zeros(n)], 1).astype("<i8")
    arrays = [np.zeros((1, 6), "<f4"), np.zeros((n, 1), "<f4"), table]
    tracemalloc.start()
    rounds.unpack(arrays, spec)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < sum(array.nbytes for array in arrays)


@pytest.mark.parametrize("wrong", [3.0, float("nan"), float("inf")])
@pytest.mark.parametrize("k", [0, 4])
def test_the_wrong_setting_of_a_round_is_named(record, wrong, k):
    spec = Recorder(record).declaration
    settings = np.zeros((5, 3), "<f4")
    settings[k, 2] = wrong
    table = np.array([[0, 1, i, 0, 0] for i in range(5)], "<i8")
    with pytest.raises(errors.LimitError, match=r"theta\[2\]"):
        rounds.unpack([np.ones((1, 3), "<f4"), settings, table], spec)


def test_an_answer_that_cannot_travel_is_refused_before_it_is_measured(keys, record):
    rows = np.zeros((2000, 3), "<f4")
    table = np.array([[0, 2000, 0, 0, 0]] * 12_300, "<i8")  # 24.6 million rows of a small message
    with served(lambda: Recorder(record), keys) as server, RemoteDevice(server.address, keys=keys) as device:
        device._connection.send(round_of(device, 1, [rows, np.zeros((1, 3), "<f4"), table]))
        reply = device._connection.hear(5)
        assert reply is not None
        assert (reply.kind, reply["error"], reply["rows"]) == (say.ERROR, "ShapeError", {})
        assert "282 MiB" in reply["text"]
        device._session = "unreachable"  # nothing of it is sent
        ask = [bp.Query(torch.from_numpy(rows), torch.zeros(3), bp.Purpose.FORWARD)] * 12_300
        with pytest.raises(errors.ShapeError, match="ask for fewer rows"):
            device.measure(ask)
        assert device.repeated().rows[bp.Purpose.FORWARD] == -24_600_000  # what the driver has booked is taken back
        with pytest.raises(errors.ShapeError, match="262,144 and"):
            device.measure([query()] * (rounds.QUERIES + 1))
    assert lines(record) == []


def test_an_earlier_round_never_replaces_a_later_one(keys, record):
    with (
        served(lambda: Recorder(record, 0.3), keys, turn_seconds=60) as server,
        RemoteDevice(server.address, keys=keys) as holder,
        RemoteDevice(server.address, keys=keys) as device,
    ):
        thread = threading.Thread(target=holder.measure, args=([query()],))
        thread.start()
        assert eventually(lambda: bool(server.report()["measuring"]))
        for number in (2, 1, 2, 3, 1, 2):  # as they come over two connections
            device._connection.send(round_of(device, number, rounds.pack([query(10 * number)])))
        device._connection.send(round_of(device, 3, rounds.pack([query(77)])))  # the same number, another content
        thread.join()
        holder.close()
        device._number = 2
        (y,) = device.measure([query(30)])
        assert torch.equal(y, query(30).x * query(30).theta)
    assert [line for line in lines(record, "read") if "[1.0, 1.0, 1.0]" not in line] == ["read [31.0, 31.0, 31.0]"] * 2


def test_a_hello_that_is_repeated_begins_no_second_session(keys, record):
    with served(lambda: Recorder(record), keys) as server:
        connection = Connection(server.address, keys)
        sessions = set()
        for _ in range(5):
            connection.send(wire.encode(say.HELLO, {"id": 7, "resume": ""}))
            reply = connection.hear(5)
            assert reply is not None
            sessions.add(reply["session"])
        assert len(sessions) == server.report()["sessions"] == 1
        connection.send(wire.encode(say.HELLO, {"id": 8, "resume": ""}))
        reply = connection.hear(5)
        assert reply is not None
        assert reply["session"] not in sessions
        connection.close()


@pytest.mark.parametrize("joined", [True, False])
@pytest.mark.parametrize("rows", [0, 1, 3, 5])
@pytest.mark.parametrize("queries", [1, 2])
def test_an_answer_with_the_wrong_row_count_is_refused(keys, record, monkeypatch, joined, rows, queries):
    """By a server that is wrong, or means to be; with a true checksum, a true number and a true count."""

    def wrong(readings, asked):
        arrays = [np.ones((rows, 3), "<f4")] * (1 if joined else len(asked))
        return joined, arrays

    monkeypatch.setattr(rounds, "pack_readings", wrong)
    with served(lambda: Recorder(record), keys) as server, RemoteDevice(server.address, keys=keys) as device:
        asked = [query(k) for k in range(queries)]  # of two rows each
        with pytest.raises(errors.ReadingError, match=r"rows in one array|returned shape"):
            metered(device, bp.Ledger())(asked)
        if joined:  # without the driver's own check, too
            with pytest.raises(errors.ReadingError, match=f"{2 * queries} rows"):
                device.measure(asked)


def test_a_count_below_zero_is_no_count():
    spent = {"rows": {"forward": -5}, "programmings": {}, "actions": {}}
    with pytest.raises(errors.ProtocolError, match="counts rows"):
        say.read(wire.encode(say.ANSWER, {"id": 1, "joined": True, **spent}))


# ---- clients ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("clients", [20, 60])
def test_many_honest_clients_meet_no_false_doubt(keys, record, clients):
    failures: list[BaseException] = []
    right: list[int] = []

    def ask(i: int) -> None:
        try:
            with RemoteDevice(server.address, keys=keys, wait=60, deadline=30) as device:
                for k in range(3):
                    (y,) = device.measure([query(10 * i + k)])
                    right.append(torch.equal(y, query(10 * i + k).x * query(10 * i + k).theta))
        except BaseException as error:
            failures.append(error)

    with served(lambda: Recorder(record, 0.01), keys, turn_seconds=0.02, lease_seconds=5) as server:
        threads = [threading.Thread(target=ask, args=(i,)) for i in range(clients)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not failures
    assert right == [True] * (3 * clients)
    assert len(lines(record, "read")) == 2 * 3 * clients


def test_a_client_that_finds_no_place_waits_for_one(keys, record, monkeypatch):
    with served(lambda: Recorder(record), keys, lease_seconds=0.3) as server:
        monkeypatch.setattr("blackprop.lab.remote.server._journal.LIVE", 2)
        with RemoteDevice(server.address, keys=keys) as first:
            first.measure([query()])
            with pytest.raises(errors.BusyError, match="at most 2 sessions"):
                RemoteDevice(server.address, keys=keys, wait=0.1)
            with RemoteDevice(server.address, keys=keys, wait=20) as second:  # when the first has been silent
                second.measure([query(1)])


def test_rounds_that_wait_are_bounded_and_their_clients_try_again(keys, record, monkeypatch):
    monkeypatch.setattr("blackprop.lab.remote.server._waiting.WAITING_BYTES", 2**10)
    with (
        served(lambda: Recorder(record, 0.3), keys, turn_seconds=0.01) as server,
        RemoteDevice(server.address, keys=keys) as holder,
        RemoteDevice(server.address, keys=keys) as device,
        RemoteDevice(server.address, keys=keys) as other,
    ):
        assert isinstance(server._dispatcher._due._held, FairQuota)
        threads = [threading.Thread(target=d.measure, args=([query(rows=30)],)) for d in (holder, device, other)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        with pytest.raises(errors.BusyError, match="come back later"):
            device.wait = 0.2
            device.measure([query(rows=300)])
    assert len(lines(record, "read")) == 90


def test_a_key_that_is_taken_away_is_measured_no_more(keys, record, tmp_path):
    other = tmp_path / "other"
    make_keys(other)
    (other / "server.key").write_bytes((keys / "server.key").read_bytes())
    (keys / "authorised" / "other.key").write_bytes((other / "client.key").read_bytes())
    with (
        served(lambda: Recorder(record, 1.5), keys, turn_seconds=60) as server,
        RemoteDevice(server.address, keys=keys) as holder,
        RemoteDevice(server.address, keys=other, deadline=3) as device,
    ):
        thread = threading.Thread(target=holder.measure, args=([query()],))
        thread.start()
        assert eventually(lambda: bool(server.report()["measuring"]))
        device._connection.send(round_of(device, 1, rounds.pack([query(5)])))
        assert eventually(lambda: bool(server.report()["queue"]))
        (keys / "authorised" / "other.key").write_bytes(b"")
        thread.join()
        holder.close()
        time.sleep(1.0)
        assert server.report()["queue"] == []
    assert len(lines(record, "read")) == 2


def test_a_long_answer_that_is_asked_for_again_is_sent_again_and_not_twice_at_once(keys, record):
    with served(lambda: Recorder(record), keys) as server, RemoteDevice(server.address, keys=keys) as device:
        x = torch.ones(40_000, 3)
        server.device.device.read = lambda rows: rows * 2  # pyright: ignore[reportAttributeAccessIssue]
        (expected,) = device.measure([bp.Query(x, torch.ones(3), bp.Purpose.FORWARD)])
        for _ in range(3):
            device._connection.send(round_of(device, 1, [], say.ASK))
        answer = device._connection.hear(5)
        assert answer is not None
        assert np.array_equal(answer.arrays[0], expected.numpy())
        device.measure([query()])
        assert not server._dispatcher.background.busy


@pytest.mark.parametrize("frames", [wire.FRAMES + 1, 3 * wire.FRAMES])
def test_a_message_of_very_many_frames_ends_its_connection_and_refuses_its_key_for_a_while(
    keys, record, tmp_path, monkeypatch, frames
):
    monkeypatch.setattr(_sockets, "REFUSED", 1.0)
    other = tmp_path / "other"
    make_keys(other)
    (other / "server.key").write_bytes((keys / "server.key").read_bytes())
    (keys / "authorised" / "other.key").write_bytes((other / "client.key").read_bytes())
    with served(lambda: Recorder(record), keys) as server, RemoteDevice(server.address, keys=keys) as device:
        connection = Connection(server.address, other)
        connection.request(say.HELLO, say.WELCOME, 10, resume="")
        connection.send([bytes(16)] + [b"x"] * (frames - 1))
        assert eventually(lambda: bool(server.report()["refused"]))
        with pytest.raises(errors.UnreachableError):  # it connects again, and is not let in
            connection.request(say.HELLO, say.WELCOME, 0.5, resume="")
        device.measure([query()])  # other keys are served
        connection.close()
        time.sleep(1.0)
        later = Connection(server.address, other)
        later.request(say.HELLO, say.WELCOME, 10, resume="")
        later.close()


def test_a_message_of_as_many_frames_as_are_allowed_is_read(keys, record):
    with served(lambda: Recorder(record), keys) as server:
        connection = Connection(server.address, keys)
        connection.send([bytes(16)] + [b"x"] * (wire.FRAMES - 1))
        reply = connection.hear(5)
        connection.request(say.HELLO, say.WELCOME, 10, resume="")
        connection.close()
        assert reply is not None
        assert "not a message of this protocol" in reply["text"]


def test_no_client_can_take_all_of_a_quota():
    quota = FairQuota(96)
    taken = dict.fromkeys((b"a", b"b", b"c"), 0)
    for owner in taken:
        while quota.take(owner, 1):
            taken[owner] += 1
    assert list(taken.values()) == [48, 24, 12]
    assert quota.take(b"d", 6)
    assert not quota.take(b"d", 2)
    for owner, amount in {**taken, b"d": 6}.items():
        quota.give_back(owner, amount)
    assert (quota.taken, quota.take(b"a", 96)) == (0, True)
