"""A server: who is let in, what it makes of wrong messages, how it is shared, protected, stopped, and killed."""

from __future__ import annotations

import errno
import itertools
import os
import random
import signal
import stat
import struct
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch

import blackprop as bp
from blackprop import errors
from blackprop.cli._lab_commands import Serve
from blackprop.core import metered
from blackprop.lab import Guarded, RemoteDevice, Server
from blackprop.lab.remote.client._connection import Connection
from blackprop.lab.remote.server._entry import HEAD
from blackprop.lab.remote.server._journal import LIVE, SILENT, Journal
from blackprop.lab.remote.shared import _messages as say
from blackprop.lab.remote.shared import _rounds as rounds
from blackprop.lab.remote.shared import _wire as wire
from blackprop.lab.remote.shared._keys import Authorised, client_pair, fingerprint, make_keys
from serving import Recorder, eventually, lines, query, served


def memory() -> int:
    """The process's memory in KiB."""
    text = Path("/proc/self/status").read_text()
    return int(text.split("VmRSS:")[1].split()[0])


# ---- keys -----------------------------------------------------------------------------------------------------------


def test_keys_are_their_owners_alone_and_never_replaced(keys):
    for path in keys.rglob("*.key*"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    before = {path: path.read_bytes() for path in keys.rglob("*.key*")}
    assert len(before) == 5
    with pytest.raises(errors.ArgumentError, match="keys are not replaced"):
        make_keys(keys)
    assert {path: path.read_bytes() for path in keys.rglob("*.key*")} == before


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda keys: (keys / "client.key_secret").unlink(), "there is no key"),
        (lambda keys: (keys / "client.key_secret").chmod(0o644), "chmod 600"),
        (lambda keys: (keys / "client.key_secret").write_bytes(b"\xff\xfe"), "not a key"),
        (lambda keys: (keys / "server.key").write_text('public-key = "short"'), "not a key"),
        (lambda keys: (keys / "client.key_secret").write_text((keys / "client.key").read_text()), "no secret key"),
    ],
)
def test_a_key_that_cannot_be_used_is_named(keys, spoil, message):
    spoil(keys)
    with pytest.raises(errors.ArgumentError, match=message):
        client_pair(keys)


def test_a_key_is_taken_away_by_deleting_its_file(keys):
    now = [0.0]
    authorised = Authorised(keys / "authorised", clock=lambda: now[0])
    public = client_pair(keys)[0]
    assert public in authorised
    (keys / "authorised" / "client.key").unlink()
    (keys / "authorised" / "broken.key").write_text("nonsense")
    now[0] = 2.0
    assert public not in authorised
    assert len(authorised) == 0


@pytest.mark.parametrize("change", ["overwrite", "truncate", "replace the content, keep size and times"])
def test_a_key_is_taken_away_by_changing_its_file_in_place(keys, tmp_path, change):
    now = [0.0]
    make_keys(tmp_path / "other")
    authorised = Authorised(keys / "authorised", clock=lambda: now[0])
    public, other = client_pair(keys)[0], client_pair(tmp_path / "other")[0]
    path, before = keys / "authorised" / "client.key", (keys / "authorised" / "client.key").stat()
    with path.open("r+b") as file:
        file.truncate(0)
        if change != "truncate":
            file.write((tmp_path / "other" / "client.key").read_bytes())
    if change.startswith("replace"):
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        assert path.stat().st_size == before.st_size
    now[0] = 2.0
    assert public not in authorised
    assert (other in authorised) == (change != "truncate")


@pytest.mark.parametrize("name", ["", "authorised", "authorised/client.key", "server.key_secret"])
@pytest.mark.parametrize("mode", [0o777, 0o720])
def test_keys_that_others_can_write_to_are_not_served(keys, record, name, mode):
    (keys / name).chmod(mode)
    with pytest.raises(errors.ArgumentError, match="chmod"):
        Server(lambda: Recorder(record), "tcp://127.0.0.1:0", keys=keys)


def test_keys_that_others_can_replace_are_used_by_neither_side(keys, record):
    with served(lambda: Recorder(record), keys) as server:
        keys.parent.chmod(0o777)
        with pytest.raises(errors.ArgumentError, match="can be replaced by other users"):
            RemoteDevice(server.address, keys=keys)
        keys.parent.chmod(0o1777)  # as /tmp
        RemoteDevice(server.address, keys=keys).close()
        (keys / "server.key").chmod(0o666)
        with pytest.raises(errors.ArgumentError, match=r"chmod go-w .*server\.key"):
            RemoteDevice(server.address, keys=keys)


def test_a_key_that_others_can_write_to_later_authorises_no_client(keys):
    now = [0.0]
    authorised = Authorised(keys / "authorised", clock=lambda: now[0])
    (keys / "authorised" / "client.key").chmod(0o666)
    now[0] = 2.0
    assert len(authorised) == 1
    assert client_pair(keys)[0] not in authorised


def test_new_keys_are_closed_to_the_group_whatever_the_umask(tmp_path):
    old = os.umask(0o002)
    try:
        make_keys(tmp_path / "new" / "keys")
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "new" / "keys").stat().st_mode) == 0o700


# ---- who is let in --------------------------------------------------------------------------------------------------


def test_a_key_that_is_not_authorised_meets_silence(keys, record, tmp_path):
    stranger = tmp_path / "stranger"
    make_keys(stranger)
    (stranger / "server.key").write_bytes((keys / "server.key").read_bytes())
    with served(lambda: Recorder(record), keys) as server:
        connection = Connection(server.address, stranger)
        connection.send(wire.encode(say.STATUS, {"id": 1}))
        assert connection.receive(0.5) is None
        connection.close()
        with pytest.raises(errors.UnreachableError, match="wrong key looks like silence"):
            RemoteDevice(server.address, keys=stranger, deadline=0.5)
        assert server.report()["clients"] == []
        (keys / "authorised" / "stranger.key").write_bytes((stranger / "client.key").read_bytes())
        time.sleep(1.1)  # the folder is looked at once a second
        with RemoteDevice(server.address, keys=stranger, deadline=5) as device:
            device.measure([query()])
        (keys / "authorised" / "stranger.key").unlink()
        time.sleep(1.1)
        with pytest.raises(errors.UnreachableError):
            RemoteDevice(server.address, keys=stranger, deadline=0.5)


def test_a_client_that_takes_another_for_the_server_meets_silence(keys, record, tmp_path):
    other = tmp_path / "other"
    make_keys(other)
    (keys / "server.key").write_bytes((other / "server.key").read_bytes())
    with served(lambda: Recorder(record), keys) as server, pytest.raises(errors.UnreachableError):
        RemoteDevice(server.address, keys=keys, deadline=0.5)


def test_without_keys_only_this_machine_is_served(record, tmp_path):
    with pytest.raises(errors.ArgumentError, match="not loopback"):
        Server(lambda: Recorder(record), "tcp://0.0.0.0:0", journal=tmp_path)
    with (
        served(lambda: Recorder(record), None, journal=tmp_path / "journal") as server,
        RemoteDevice(server.address, insecure=True, deadline=5) as device,
    ):
        (y,) = device.measure([query()])
    assert torch.equal(y, query().x * query().theta)
    with pytest.raises(errors.ArgumentError, match="insecure=True"):
        RemoteDevice("tcp://127.0.0.1:5555")


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


# ---- what is remembered ----------------------------------------------------------------------------------------------


KEYS = [bytes([65 + i]) * 40 for i in range(6)]


def begun(journal: Journal, session: str, user: bytes, number: int = 1):
    """A session in which a round was begun."""
    entry = journal.get(session, user)
    assert entry is not None
    entry.begin(number, 0)
    return entry


def test_no_live_session_is_forgotten_whatever_is_begun(tmp_path):
    now = [0.0]
    journal = Journal(tmp_path / "journal", 30, lambda: now[0])
    first, second = KEYS[:2]
    live = [journal.new(first) for _ in range(60)]
    with pytest.raises(errors.BusyError, match=f"at most {LIVE} sessions"):
        for _ in range(2 * LIVE):
            journal.new(first)
    assert len(journal) == LIVE // 2  # as much stays free
    assert journal.get(journal.new(second), second) is not None
    assert all(session in journal for session in live)
    now[0] = 31.0
    for _ in range(2 * LIVE):  # silent for longer than a lease; those that hold or wait are live all the same
        try:
            journal.new(second, busy=live[:20])
        except errors.BusyError:
            break
    assert all(session in journal for session in live[:20])
    assert len(journal) <= LIVE + SILENT
    journal.close()


def test_of_silent_sessions_those_without_a_round_are_forgotten_first_then_those_of_who_has_most(tmp_path):
    now = [0.0]
    journal = Journal(tmp_path / "journal", 30, lambda: now[0])
    honest, noisy, idle, last = KEYS[:4]
    kept = journal.new(honest)
    begun(journal, kept, honest)
    others = [journal.new(noisy) for _ in range(SILENT + 10)]
    for session in others:
        begun(journal, session, noisy)
    empty = [journal.new(idle) for _ in range(5)]
    now[0] = 100.0
    newest = journal.new(last)
    assert newest in journal
    assert len(journal) == SILENT + 1
    assert kept in journal
    assert not any(session in journal for session in empty)
    assert [session in journal for session in others] == [False] * 11 + [True] * (SILENT - 1)
    assert len(list((tmp_path / "journal").iterdir())) == len(journal)
    journal.close()


def test_sessions_of_before_a_restart_are_live_for_a_lease(tmp_path):
    now = [0.0]
    journal = Journal(tmp_path / "journal", 30, lambda: now[0])
    before = [journal.new(KEYS[0]) for _ in range(80)]
    journal.close()
    again = Journal(tmp_path / "journal", 30, lambda: now[0])
    again.new(KEYS[1])
    assert all(session in again for session in before)
    now[0] = 31.0
    again.new(KEYS[1])
    assert sum(session in again for session in before) == SILENT - 1  # and the other client's own
    again.close()


def test_one_client_cannot_fetch_the_answers_of_another(keys, record, tmp_path):
    other = tmp_path / "other"
    make_keys(other)
    (other / "server.key").write_bytes((keys / "server.key").read_bytes())
    (keys / "authorised" / "other.key").write_bytes((other / "client.key").read_bytes())
    with served(lambda: Recorder(record), keys) as server, RemoteDevice(server.address, keys=keys) as device:
        device.measure([query()])
        connection = Connection(server.address, other)
        connection.send(wire.encode(say.ASK, {"id": 1, "session": device._session, "boot": device._boot}))
        reply = connection.hear(2)
        connection.close()
    assert reply is not None
    assert reply.kind == say.AGAIN


def test_the_journal_keeps_the_last_answer_of_each_session(tmp_path):
    journal = Journal(tmp_path / "journal")
    sessions = [journal.new(KEYS[0]) for _ in range(5)]
    assert len(journal) == len(list((tmp_path / "journal").iterdir())) == 5
    assert journal.get(sessions[-1], KEYS[1]) is None
    done, open_ = begun(journal, sessions[-2], KEYS[0], 7), begun(journal, sessions[-1], KEYS[0], 9)
    answer = wire.encode("answer", {"id": 7}, [np.arange(9.0)])
    done.answer(answer)
    journal.close()
    (tmp_path / "journal" / ("0" * 32 + ".answer")).write_bytes(b"nonsense")
    again = Journal(tmp_path / "journal")
    assert (len(again), again.forgotten) == (5, 1)
    done, open_ = (again.get(session, KEYS[0]) for session in sessions[-2:])
    assert done is not None
    assert open_ is not None
    assert (done.number, done.last(), open_.number, open_.last()) == (7, answer[0], 9, None)
    whole = done.path.read_bytes()[: HEAD + len(answer[0])]
    for torn in (whole[:-2], whole[:-8] + bytes(8)):  # the machine lost power
        done.path.write_bytes(torn)
        assert done.last() is None
    older = wire.encode("answer", {"id": 6}, [np.arange(9.0)])[0]
    done.path.write_bytes(whole[:HEAD] + older)  # the head came to the disk, and the answer did not
    assert done.last() is None
    again.drop(sessions[-1])
    again.close()
    assert len(list((tmp_path / "journal").iterdir())) == 4


def test_a_damaged_head_never_passes_for_another_number(tmp_path):
    journal = Journal(tmp_path / "journal")
    session = journal.new(KEYS[0])
    entry = begun(journal, session, KEYS[0], 1000)
    journal.close()
    whole = entry.path.read_bytes()
    other = entry.path.with_name("f" * 32 + ".answer")
    for bit in range(8 * HEAD):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        entry.path.write_bytes(damaged)
        other.write_bytes(whole)  # a true head under another name
        again = Journal(tmp_path / "journal")
        assert (len(again), again.forgotten) == (0, 2)
        again.close()
    rng = random.Random(0)
    for _ in range(600):
        damaged = bytearray(whole)
        damaged[rng.randrange(HEAD) : HEAD] = rng.randbytes(rng.randrange(1, HEAD))
        entry.path.write_bytes(damaged)
        again = Journal(tmp_path / "journal")
        found = again.get(session, KEYS[0])
        assert found is None or found.number == 1000
        again.close()


def test_a_journal_of_version_1_is_not_believed_and_said(keys, record):
    server = Server(lambda: Recorder(record), "tcp://127.0.0.1:0", keys=keys)
    folder, address = server._journal.folder, server.address
    server.stop()
    server.serve()
    head = struct.pack("<4sBxxxqq40s", b"BPJ1", 1, 7, 0, KEYS[0])
    (folder / ("a" * 32 + ".answer")).write_bytes(head)
    with served(lambda: Recorder(record), keys, bind=address) as server:
        report = server.report()
    assert report["sessions"] == 0
    assert "1 sessions were damaged or of another version" in str(report["last_faults"])


def test_a_full_disk_leaves_no_file_and_puts_no_round_in_doubt(keys, record, monkeypatch):
    full = [False]

    def reserve(*what):
        if full[0]:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", reserve)
    with served(lambda: Recorder(record), keys) as server, RemoteDevice(server.address, keys=keys) as device:
        folder = server._journal.folder
        device.measure([query()])
        full[0] = True
        for _ in range(3):
            with pytest.raises(errors.DeviceError, match="No space left"):
                RemoteDevice(server.address, keys=keys)
        assert len(list(folder.iterdir())) == len(server._journal) == 1
        device.measure([query(1)])  # its place was taken beforehand
        with pytest.raises(errors.DeviceError, match="the round was not measured, the journal failed"):
            device.measure([query(2, rows=2000)])
        assert len(lines(record, "read")) == 4
        connection = Connection(server.address, keys)  # the same, told by the protocol: lost is not doubt
        fields = {"session": device._session, "boot": device._boot}
        connection.send(wire.encode(say.ASK, {"id": device._number, **fields}))
        reply = connection.hear(2)
        connection.close()
        assert reply is not None
        assert reply["state"] == say.LOST
        full[0] = False
        device.measure([query(2, rows=2000)])


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
