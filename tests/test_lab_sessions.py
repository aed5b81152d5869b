"""The sessions of a server: which are remembered, for whom, and what is left of a full or damaged disk."""

from __future__ import annotations

import errno
import os
import random
import struct

import numpy as np
import pytest

from blackprop import errors
from blackprop.lab import RemoteDevice, Server
from blackprop.lab.remote.client._connection import Connection
from blackprop.lab.remote.server import _journal as journals
from blackprop.lab.remote.server._entry import HEAD
from blackprop.lab.remote.server._journal import LIVE, SILENT, Journal
from blackprop.lab.remote.shared import _messages as say
from blackprop.lab.remote.shared import _wire as wire
from blackprop.lab.remote.shared._keys import make_keys
from serving import Recorder, lines, query, served

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


def test_of_many_sessions_to_forget_each_key_keeps_as_many(tmp_path, monkeypatch):
    monkeypatch.setattr(journals, "SILENT", 2)
    now = [0.0]
    journal, owners = Journal(tmp_path / "journal", 30, lambda: now[0]), [KEYS[0]] * 4 + [KEYS[1]] * 3
    sessions = [journal.new(user) for user in owners]
    for session, user in zip(sessions, owners, strict=True):
        begun(journal, session, user)
    now[0] = 100.0
    journal.new(KEYS[2])
    assert [user for session, user in zip(sessions, owners, strict=True) if session in journal] == KEYS[:2]
    journal.close()
