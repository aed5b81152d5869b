"""A server's sessions on disk, by themselves: what comes back after a crash, what is forgotten, what room is taken."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import struct
import zlib

import numpy as np
import pytest

from blackprop.errors import ArgumentError
from blackprop.lab.remote.server import _entry as entries
from blackprop.lab.remote.server import _journal as journals
from blackprop.lab.remote.server._entry import HEAD, ROOM, SPARE, Entry
from blackprop.lab.remote.server._journal import Journal
from blackprop.lab.remote.shared import _wire as wire
from blackprop.lab.remote.shared._wire import MESSAGE_BYTES, PIECE_BYTES

ME, OTHER = b"m" * 40, b"o" * 40
NAME = "0123456789abcdef" * 2 + ".answer"


@pytest.fixture
def path(tmp_path):
    return tmp_path / NAME


def opened(path) -> contextlib.closing[Entry]:
    """A session as a server finds it that is started again."""
    return contextlib.closing(Entry(path))


def answer(number: int, size: int) -> list[bytes]:
    """The frames of an answer of about so many bytes, of other numbers for each round."""
    return [bytes(frame) for frame in wire.encode("answer", {"id": number}, [np.arange(size // 8) + number])]


def answered(path, number: int, frames: list[bytes]) -> Entry:
    entry = Entry(path, ME)
    entry.begin(number, sum(map(len, frames)))
    entry.answer(frames)
    return entry


@pytest.mark.parametrize("size", [80, PIECE_BYTES - 2000, PIECE_BYTES + 2000, 3 * PIECE_BYTES])
def test_an_answer_comes_back_whole_here_and_after_a_restart(path, size):
    frames = answer(7, size)
    entry = answered(path, 7, frames)
    assert entry.last() == b"".join(frames)
    assert entry.last_of(entry.copy(), entry.size) == b"".join(frames)
    entry.close()
    again = Entry(path)
    assert (again.user, again.number, again.answered) == (ME, 7, True)
    assert again.last() == b"".join(frames)
    assert again.last_of(again.copy(), again.size) == b"".join(frames)
    again.begin(8, 80)
    again.answer(answer(8, 80))
    assert again.last() == b"".join(answer(8, 80))
    again.close()


def test_a_round_that_is_open_has_no_answer_and_no_round_is_none(path):
    entry = Entry(path, ME)
    assert (entry.number, entry.answered, entry.last()) == (0, True, None)
    frames = answer(1, 800)
    entry.begin(1, 800)
    entry.answer(frames)
    entry.begin(2, 80)
    with opened(path) as again:
        for each in (entry, again):
            assert (each.number, each.answered, each.size, each.last()) == (2, False, 0, None)
    entry.close()


@pytest.mark.parametrize("cut", [1, 700])
def test_an_answer_that_is_cut_short_is_none(path, cut):
    frames = answer(7, 800)
    answered(path, 7, frames).close()
    os.truncate(path, HEAD + sum(map(len, frames)) - cut)
    with opened(path) as again:
        assert again.last() is None


@pytest.mark.parametrize("size", [800, 2 * PIECE_BYTES])
def test_a_server_that_dies_while_it_writes_never_leaves_half_an_answer_for_a_whole_one(path, monkeypatch, size):
    """A short answer is one write, whose checksum tells; a long one is said to be there once it is."""
    write, writes, died = os.pwrite, [], False

    def dying(file, data, at):
        writes.append(len(data))
        if len(writes) > lives:
            raise OSError(errno.EIO, "died")
        return write(file, data[:100_000], at)

    monkeypatch.setattr(os, "pwrite", dying)
    frames = answer(7, size)
    for lives in range(20):
        path.unlink(missing_ok=True)
        writes.clear()
        monkeypatch.setattr(os, "pwrite", write)
        entry = answered(path, 6, answer(6, size))
        entry.begin(7, size)
        monkeypatch.setattr(os, "pwrite", dying)
        with contextlib.suppress(OSError), contextlib.closing(entry):
            entry.answer(frames)
        died = len(writes) > lives
        with opened(path) as again:
            assert (again.number, again.answered) == (7, not died)
            assert again.last() == (None if died else b"".join(frames))
        if not died:
            break
    assert not died
    assert size > PIECE_BYTES or len(writes) == 1


def test_a_session_is_one_new_file_that_its_owner_alone_can_read(path):
    entry = Entry(path, ME, heard=3.5)
    assert entry.heard == 3.5
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with pytest.raises(FileExistsError):
        Entry(path, ME)
    assert not entry.closed
    entry.close()
    assert entry.closed
    with opened(path) as again:
        assert again.user == ME


def test_room_is_taken_before_a_round_and_much_that_is_spare_is_given_back(path):
    entry = Entry(path, ME)
    assert path.stat().st_size == HEAD + ROOM
    for number, (size, room) in enumerate(
        [
            (10, ROOM),
            (5 * SPARE, 5 * SPARE),
            (4 * SPARE + 1, 5 * SPARE),  # little is spare: no work for the disk
            (4 * SPARE, 5 * SPARE),
            (4 * SPARE - 1, 4 * SPARE - 1),
            (10, ROOM),
        ],
        start=1,
    ):
        entry.begin(number, size)
        assert path.stat().st_size == HEAD + room
    entry.answer(answer(6, 2 * ROOM))  # longer than was said
    entry.close()
    again = Entry(path)
    assert again.last() == b"".join(answer(6, 2 * ROOM))
    again.begin(7, 3 * ROOM)
    assert path.stat().st_size == HEAD + 3 * ROOM
    again.close()


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_a_full_disk_refuses_a_session_and_a_round_and_changes_neither(path, monkeypatch, code):
    def full(*what):
        raise OSError(code, "no")

    entry = answered(path, 1, answer(1, 800))
    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match="no"):
        entry.begin(2, 10 * ROOM)
    assert (entry.number, entry.last()) == (1, b"".join(answer(1, 800)))
    entry.begin(2, 800)  # has its place
    entry.close()
    with pytest.raises(OSError, match="no"):
        Entry(path.with_name("f" * 32 + ".answer"), ME)
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("code", sorted(entries._CANNOT_RESERVE))
def test_a_file_system_that_cannot_reserve_serves_all_the_same(path, monkeypatch, code):
    def cannot(*what):
        raise OSError(code, "cannot")

    monkeypatch.setattr(os, "posix_fallocate", cannot)
    with contextlib.closing(answered(path, 1, answer(1, 4 * ROOM))) as entry:
        assert entry.last() == b"".join(answer(1, 4 * ROOM))


@pytest.mark.parametrize(
    ("state", "number", "size"),
    [(0, 1, 0), (3, 1, 0), (2, -1, 0), (2, 1, -1), (2, 1, MESSAGE_BYTES + 1)],
)
def test_a_head_that_holds_no_session_is_refused_though_its_checksum_fits(path, state, number, size):
    def write(*fields) -> None:
        head = struct.pack("<B7xqq40s", *fields, ME)
        path.write_bytes(struct.pack("<4sI", b"BPJ2", zlib.crc32(head, zlib.crc32(path.stem.encode()))) + head)

    write(1, 0, MESSAGE_BYTES)
    with opened(path) as entry:
        assert (entry.number, entry.answered, entry.size) == (0, False, MESSAGE_BYTES)
    write(state, number, size)
    with pytest.raises(ValueError, match="holds no session"):
        Entry(path)


# The journal.


@pytest.fixture
def few(monkeypatch):
    """Room for 2 live and 3 silent sessions."""
    monkeypatch.setattr(journals, "LIVE", 2)
    monkeypatch.setattr(journals, "SILENT", 3)


def filled(folder, numbers: list[int], sizes: list[int] | None = None, clock=lambda: 0.0) -> tuple[Journal, list[str]]:
    """A journal of sessions whose last rounds have these numbers."""
    journal = Journal(folder, 30, clock)
    sessions = []
    for place, number in enumerate(numbers):
        sessions.append(journal.new(ME))
        entry = journal.get(sessions[-1], ME)
        entry.begin(number, 0)
        entry.answer(answer(number, sizes[place] if sizes else 80))
    return journal, sessions


def test_a_journal_knows_its_sessions_and_whose_they_are(tmp_path):
    journal, (first, second) = filled(tmp_path / "a" / "journal", [1, 2])
    assert stat.S_IMODE((tmp_path / "a" / "journal").stat().st_mode) == 0o700
    assert len(journal) == 2
    assert first in journal
    assert "f" * 32 not in journal
    assert [(session, entry.number) for session, entry in journal] == [(first, 1), (second, 2)]
    assert (journal.user(first), journal.user("f" * 32)) == (ME, b"")
    assert journal.get(first, OTHER) is journal.get("f" * 32, ME) is None
    entry = journal.get(first, ME)
    journal.drop(first)
    journal.drop(first)
    assert entry.closed
    assert not entry.path.exists()
    assert first not in journal
    entry = journal.get(second, ME)
    journal.close()
    assert len(journal) == 0
    assert entry.closed
    assert entry.path.exists()


def test_of_more_files_than_there_is_room_for_the_newest_are_taken_up(tmp_path, few, monkeypatch):
    monkeypatch.setattr(journals, "LIVE", 100)
    journal, sessions = filled(tmp_path, list(range(1, 9)))
    journal.close()
    monkeypatch.setattr(journals, "LIVE", 2)
    order = [3, 1, 7, 0, 5, 2, 6, 4]  # by time, and not by name or as the folder lists them
    for when, place in enumerate(order):
        os.utime(tmp_path / f"{sessions[place]}.answer", (when, when))
    (tmp_path / "notes.txt").write_text("mine")
    again = Journal(tmp_path, 30)
    assert {session for session, _ in again} == {sessions[place] for place in order[-5:]}
    assert len(list(tmp_path.iterdir())) == 5 + 1
    assert again.forgotten == 0
    again.close()


def test_silent_sessions_are_kept_as_far_as_their_answers_have_room(tmp_path, monkeypatch):
    now = [0.0]
    journal, sessions = filled(tmp_path, [1, 2, 3, 4], [8000, 800, 800, 80_000], lambda: now[0])
    sizes = [entry.size for _, entry in journal]
    for place, session in enumerate(sessions):
        journal.get(session, ME).heard = float(place)
    now[0] = 100.0
    monkeypatch.setattr(journals, "SILENT_BYTES", sum(sizes[1:]))
    journal.new(OTHER)
    assert [session in journal for session in sessions] == [False, True, True, True]
    monkeypatch.setattr(journals, "SILENT_BYTES", sum(sizes[1:]) - 1)
    journal.new(OTHER)
    assert [session in journal for session in sessions] == [False, False, True, True]
    monkeypatch.setattr(journals, "SILENT_BYTES", 0)
    journal.new(OTHER, busy=[sessions[3]])
    assert [session in journal for session in sessions] == [False, False, False, True]
    journal.close()


def test_a_session_is_silent_a_lease_after_its_client_was_heard(tmp_path, few):
    now = [0.0]
    journal, sessions = filled(tmp_path, [1], clock=lambda: now[0])
    now[0] = 30.0
    assert not journal._silent(())
    now[0] = 30.1
    assert list(journal._silent(())) == sessions
    assert not journal._silent(sessions)
    journal.close()


def test_a_folder_that_cannot_be_kept_is_named(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ArgumentError, match=r"the journal .*file cannot be kept"):
        Journal(tmp_path / "file")


@pytest.mark.parametrize("restarted", [False, True])
def test_the_room_of_a_long_answer_is_given_back_at_the_next_round(path, restarted):
    """Also where the answer was longer than it was said to be, and where an earlier server wrote it."""
    frames, entry = answer(1, 4 * SPARE), Entry(path, ME)
    entry.begin(1, 0)
    entry.answer(frames)
    if restarted:
        entry.close()
        entry = Entry(path)
    assert path.stat().st_size > 3 * SPARE
    entry.begin(2, 0)
    assert path.stat().st_size == HEAD + ROOM
    entry.close()
