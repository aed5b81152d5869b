"""The last answer of each session, on disk: what a server that was killed needs to measure nothing twice.

One file a session. Before a round is measured its number is written down as begun, after it the answer and then the
word that it is whole. The operating system keeps what was written when the process dies; should the machine itself lose
power, the checksum of an answer that is not whole tells, and the round is in doubt.
"""

from __future__ import annotations

import os
import re
import secrets
import struct
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

from blackprop.errors import ArgumentError, ProtocolError
from blackprop.lab.wire import MESSAGE_BYTES, PIECE_BYTES, Buffer, decode

KEEP = 16
_HEAD = struct.Struct("<4sBxxxqq40s")  # magic, state, number of the round, bytes of the answer, the client's key
_MAGIC = b"BPJ1"
_BEGUN, _ANSWERED = 1, 2
_NAME = re.compile(r"[0-9a-f]{32}\.answer")


class Entry:
    """One session: the key it belongs to, the number of its last round, and the answer where there is one."""

    def __init__(self, path: Path, user: bytes, *, new: bool) -> None:
        self.path = path
        self.user = user
        self.number = 0
        self.answered = True  # nothing is open before the first round
        self.route: bytes | None = None  # where the client was heard last
        self._size = 0
        self._whole = new  # what a server before this one wrote is looked at first
        flags = os.O_RDWR | (os.O_CREAT | os.O_EXCL if new else 0)
        self._file = os.fdopen(os.open(path, flags, 0o600), "r+b", buffering=0)
        if new:
            self._note(_ANSWERED)
        else:
            self._read_head()

    def begin(self, number: int) -> None:
        self.number, self.answered, self._size = number, False, 0
        self._note(_BEGUN)

    def answer(self, frames: Sequence[Buffer]) -> None:
        self._size = sum(len(frame) for frame in frames)
        if self._size <= PIECE_BYTES:  # at once: the checksum of the answer tells whether all of it came to be written
            self._note(_ANSWERED, *frames)
        else:
            at = _HEAD.size
            for frame in frames:
                at = self._write(frame, at)
            self._note(_ANSWERED)
        self.answered = self._whole = True

    def last(self) -> bytes | None:
        """The answer to the last round as it was sent, None where there is none, or not all of it."""
        if not self.answered or not self._size:
            return None
        self._file.seek(_HEAD.size)
        parts, missing = [], self._size
        while missing > 0 and (part := self._file.read(missing)):
            parts.append(part)
            missing -= len(part)
        answer = b"".join(parts)
        if not self._whole:
            try:
                decode([answer])
            except ProtocolError:
                return None
        return answer if not missing else None

    def close(self) -> None:
        self._file.close()

    def _note(self, state: int, *rest: Buffer) -> None:
        self._write(b"".join((_HEAD.pack(_MAGIC, state, self.number, self._size, self.user), *rest)), 0)

    def _write(self, data: Buffer, at: int) -> int:
        """Write at a place of the file; returns the place behind it."""
        view = memoryview(data)
        while view:
            written = os.pwrite(self._file.fileno(), view, at)
            view, at = view[written:], at + written
        return at

    def _read_head(self) -> None:
        head = self._file.read(_HEAD.size) or b""
        try:
            magic, state, self.number, self._size, user = _HEAD.unpack(head)
        except struct.error:
            magic, state, user = b"", 0, b""
        if magic != _MAGIC or state not in {_BEGUN, _ANSWERED} or not 0 <= self._size <= MESSAGE_BYTES:
            self._file.close()
            raise ValueError(f"{self.path} is not an answer of ours")
        self.user, self.answered = user.rstrip(b"\0"), state == _ANSWERED


class Journal:
    """The last answers of the `KEEP` sessions that spoke last; older ones are deleted, those without a round first."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._entries: OrderedDict[str, Entry] = OrderedDict()
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            files = [path for path in folder.iterdir() if _NAME.fullmatch(path.name)]
            files.sort(key=lambda path: path.stat().st_mtime_ns)
        except OSError as error:
            raise ArgumentError(f"the journal {folder} cannot be kept: {error}") from error
        for path in files:
            try:
                self._entries[path.stem] = Entry(path, b"", new=False)
            except (OSError, ValueError):
                path.unlink(missing_ok=True)
        self._trim()

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, session: str) -> bool:
        return session in self._entries

    def new(self, user: bytes) -> str:
        session = secrets.token_hex(16)
        self._entries[session] = Entry(self.folder / f"{session}.answer", user, new=True)
        self._trim()
        return session

    def get(self, session: str, user: bytes) -> Entry | None:
        """The session, where it is known and belongs to this key."""
        entry = self._entries.get(session)
        if entry is None or entry.user != user:
            return None
        self._entries.move_to_end(session)
        return entry

    def user(self, session: str) -> bytes:
        """The key that a session belongs to; empty for one that is not known."""
        entry = self._entries.get(session)
        return b"" if entry is None else entry.user

    def drop(self, session: str) -> None:
        if (entry := self._entries.pop(session, None)) is not None:
            entry.close()
            entry.path.unlink(missing_ok=True)

    def close(self) -> None:
        for entry in self._entries.values():
            entry.close()
        self._entries.clear()

    def _trim(self) -> None:
        while len(self._entries) > KEEP:
            *older, _ = self._entries
            unused = (session for session in older if not self._entries[session].number)
            self.drop(next(unused, older[0]))
