"""One session's file in the journal.

Before a round is measured its number is written down as begun, after it the answer and then the word that it is whole.
The operating system keeps written data when the process dies. A checksum over the head detects damage. If the machine
loses power, the checksum of the answer detects an incomplete one, and the round is in doubt.

```
bytes 0-3    "BPJ" and the version, one digit
      4-7    CRC-32 of the session's name and of bytes 8-71   (little-endian, as all numbers here)
      8      1: the round is begun, 2: it is answered         then seven zeros
     16-23   number of the last round, 0 for none
     24-31   length of the answer
     32-71   the client's public key, zeros where there are no keys
     72-     the answer, as it was sent
```
"""

from __future__ import annotations

import errno
import os
import re
import struct
import zlib
from collections.abc import Sequence
from io import FileIO
from pathlib import Path

from blackprop.errors import ProtocolError
from blackprop.lab.remote.shared._wire import MESSAGE_BYTES, PIECE_BYTES, Buffer, decode

_START = struct.Struct("<4sI")
_HEAD = struct.Struct("<B7xqq40s")
HEAD = _START.size + _HEAD.size
_MAGIC = b"BPJ2"
_BEGUN, _ANSWERED = 1, 2
_CANNOT_RESERVE = {errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP}  # errors of some file systems
NAME = re.compile(r"[0-9a-f]{32}\.answer")
ROOM = 8192 - HEAD  # bytes for an answer that every session has
SPARE = 2**20  # more than this beyond the need of a round is given back to the disk


class Entry:
    """One session: the key it belongs to, the number of its last round, and the answer where there is one.

    With `user` a new file is made; without, the file is read, and `ValueError` raised where it cannot be believed.
    """

    def __init__(self, path: Path, user: bytes | None = None, *, heard: float = 0.0) -> None:
        self.path = path
        self.heard = heard  # when the client spoke last
        self.greeting: tuple[bytes, int] | None = None  # the connection and the number of the hello that began it
        self.route: bytes | None = None  # where the client was heard last
        self.fetched = False  # whether the answer is on its way from the disk
        self.number = 0
        self.answered = True  # there is no open round before the first
        self.size = 0  # of the answer
        self._room = 0
        self._whole = user is not None  # the file of an earlier server is checked first
        flags = os.O_RDWR | (0 if user is None else os.O_CREAT | os.O_EXCL)
        self._file = os.fdopen(os.open(path, flags, 0o600), "r+b", buffering=0)
        try:
            if user is None:
                self._read_head()
            else:
                self.user = user
                self._reserve(ROOM)
                self._note(_ANSWERED, 0, 0)
        except BaseException:
            self._file.close()
            if user is not None:  # a full disk: leave no file behind
                path.unlink(missing_ok=True)
            raise

    def begin(self, number: int, size: int) -> None:
        """Write down that a round begins, whose answer takes about `size` bytes; `OSError` where it has no room."""
        self._reserve(max(ROOM, size))
        self._note(_BEGUN, number, 0)
        self.number, self.answered, self.size = number, False, 0

    def answer(self, frames: Sequence[Buffer]) -> None:
        """Write down the answer to the round that was begun."""
        size = sum(len(frame) for frame in frames)
        if size <= PIECE_BYTES:  # at once: the checksum of the answer tells whether all of it came to be written
            self._note(_ANSWERED, self.number, size, *frames)
        else:
            at = HEAD
            for frame in frames:
                at = self._write(frame, at)
            self._note(_ANSWERED, self.number, size)
        self._room = max(self._room, HEAD + size)
        self.size, self.answered, self._whole = size, True, True

    def last(self) -> bytes | None:
        """The answer to the last round as it was sent, None where there is none, or not all of it."""
        if not self.answered or not self.size:
            return None
        return self._believed(_read(self._file, self.size))

    def copy(self) -> FileIO:
        """Another handle of the file, for `last_of` in another thread; the caller closes it."""
        return FileIO(os.dup(self._file.fileno()), "rb")

    def last_of(self, file: FileIO, size: int) -> bytes | None:
        """As `last`, from a `copy`, of an answer of `size` bytes; the answer may be overwritten meanwhile."""
        with file:
            return self._believed(_read(file, size))

    def close(self) -> None:
        self._file.close()

    @property
    def closed(self) -> bool:
        return self._file.closed

    def _believed(self, answer: bytes | None) -> bytes | None:
        """The answer, where this process wrote it or it is seen to be whole, and the answer to the last round."""
        if answer is None or self._whole:
            return answer
        try:
            return answer if decode([answer]).fields.get("id") == self.number else None
        except ProtocolError:
            return None

    def _reserve(self, size: int) -> None:
        """Take the disk's space for an answer beforehand: measured, it must have a place."""
        needed = HEAD + size
        if self._room > needed + SPARE:
            os.ftruncate(self._file.fileno(), needed)
            self._room = needed
        elif self._room < needed:
            if hasattr(os, "posix_fallocate"):
                try:
                    os.posix_fallocate(self._file.fileno(), 0, needed)
                except OSError as error:
                    if error.errno not in _CANNOT_RESERVE:
                        raise
            self._room = needed

    def _note(self, state: int, number: int, size: int, *rest: Buffer) -> None:
        head = _HEAD.pack(state, number, size, self.user)
        self._write(b"".join((_START.pack(_MAGIC, self._checksum(head)), head, *rest)), 0)

    def _checksum(self, head: bytes) -> int:
        return zlib.crc32(head, zlib.crc32(self.path.stem.encode()))

    def _write(self, data: Buffer, at: int) -> int:
        """Write at a place of the file; returns the place behind it."""
        view = memoryview(data)
        while view:
            written = os.pwrite(self._file.fileno(), view, at)
            view, at = view[written:], at + written
        return at

    def _read_head(self) -> None:
        raw = os.pread(self._file.fileno(), HEAD, 0)
        if len(raw) != HEAD or _START.unpack_from(raw) != (_MAGIC, self._checksum(raw[_START.size :])):
            raise ValueError(f"{self.path} is damaged, or was written by another version")
        state, self.number, self.size, user = _HEAD.unpack_from(raw, _START.size)
        if state not in {_BEGUN, _ANSWERED} or not 0 <= self.size <= MESSAGE_BYTES or self.number < 0:
            raise ValueError(f"{self.path} holds no session")
        self.user, self.answered = user.rstrip(b"\0"), state == _ANSWERED
        self._room = os.fstat(self._file.fileno()).st_size


def _read(file: FileIO, size: int) -> bytes | None:
    """The answer of `size` bytes in a session's file, None where not all of it is there."""
    parts, at = [], HEAD
    while size > 0 and (part := os.pread(file.fileno(), size, at)):
        parts.append(part)
        at, size = at + len(part), size - len(part)
    return None if size else b"".join(parts)
