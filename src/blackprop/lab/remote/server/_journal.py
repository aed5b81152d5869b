"""The last answer of each session, on disk, so that a server that was killed measures no round twice."""

from __future__ import annotations

import secrets
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

from blackprop.errors import ArgumentError, BusyError
from blackprop.lab.remote.server._entry import NAME, Entry
from blackprop.lab.remote.shared._keys import check_owned
from blackprop.lab.remote.shared._quota import fits

LIVE = 192  # sessions whose clients are there
SILENT = 64  # others, whose clients may come back
SILENT_BYTES = 4 * 2**30  # of their answers


class Journal:
    """The sessions of a server, one file each in `folder`.

    A session is live while its client holds the device, waits for it, or spoke within `lease_seconds`. A live session
    is never forgotten: where there is no place for another one, `new` raises `BusyError`. Of the silent ones `SILENT`
    are kept; those without a round are forgotten first, then the oldest ones of the client that has most.

    A file that is damaged, or was written by another version, is deleted, and counted in `forgotten`: an open round of
    its session is then in doubt.
    """

    def __init__(self, folder: Path, lease_seconds: float = 30.0, clock: Callable[[], float] = time.monotonic) -> None:
        self.folder = folder
        self.forgotten = 0
        self._lease_seconds, self._clock = lease_seconds, clock
        self._entries: dict[str, Entry] = {}
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            check_owned(folder)
            files = [path for path in folder.iterdir() if NAME.fullmatch(path.name)]
            files.sort(key=lambda path: path.stat().st_mtime_ns, reverse=True)
            for path in files:
                self._load(path)
        except OSError as error:
            self.close()
            raise ArgumentError(f"the journal {folder} cannot be kept: {error}") from error

    def _load(self, path: Path) -> None:
        if len(self._entries) == LIVE + SILENT:
            path.unlink()
            return
        try:
            self._entries[path.stem] = Entry(path, heard=self._clock())  # its client may still be there
        except ValueError:
            path.unlink()
            self.forgotten += 1

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, session: str) -> bool:
        return session in self._entries

    def __iter__(self) -> Iterator[tuple[str, Entry]]:
        return iter(self._entries.items())

    def new(self, user: bytes, busy: Collection[str] = ()) -> str:
        """Begin a session for the client with the key `user`; those in `busy` hold the device, or wait for it."""
        silent = self._silent(busy)
        live = Counter(entry.user for session, entry in self._entries.items() if session not in silent)
        if not fits(live[user], 1, live.total(), LIVE):
            raise BusyError(
                f"the server keeps at most {LIVE} sessions whose clients are there and has {live.total()}, of them "
                f"{live[user]} of this key; close some, or come back in {self._lease_seconds:g} s"
            )
        self._trim(silent)
        session = secrets.token_hex(16)
        self._entries[session] = Entry(self.folder / f"{session}.answer", user, heard=self._clock())
        return session

    def get(self, session: str, user: bytes) -> Entry | None:
        """The session, where it is known and belongs to this key."""
        entry = self._entries.get(session)
        return entry if entry is not None and entry.user == user else None

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

    def _silent(self, busy: Collection[str]) -> dict[str, Entry]:
        last = self._clock() - self._lease_seconds
        return {s: entry for s, entry in self._entries.items() if entry.heard < last and s not in busy}

    def _trim(self, silent: dict[str, Entry]) -> None:
        size = sum(entry.size for entry in silent.values())
        owned = Counter(entry.user for entry in silent.values())
        while len(silent) > SILENT or size > SILENT_BYTES:
            worst = min(silent, key=lambda s: (silent[s].number > 0, -owned[silent[s].user], silent[s].heard))
            entry = silent.pop(worst)
            owned[entry.user] -= 1
            size -= entry.size
            self.drop(worst)
