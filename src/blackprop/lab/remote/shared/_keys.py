"""The access to a server: key pairs in a folder, and the folder of authorised ones."""

from __future__ import annotations

import hashlib
import math
import os
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from blackprop._extras import install
from blackprop.errors import ArgumentError

AUTHORISED = "authorised"
KEY_BYTES = 4096  # no key file is longer
_KEY = '#   A CURVE key of ZeroMQ, {kind}\ncurve\n    public-key = "{public}"\n'
_SECRET = '    secret-key = "{secret}"\n'


def make_keys(folder: Path) -> list[Path]:
    """Make the key pairs `server` and `client` in `folder`, the client authorised; refuses to replace a file.

    `server.key_secret` stays with the server, `client.key_secret` with the client; both are readable by their owner
    alone. A client needs `server.key` besides, a server the folder `authorised`.
    """
    zmq = import_zmq()
    pairs = {name: [key.decode() for key in zmq.curve_keypair()] for name in ("server", "client")}
    files: dict[Path, str] = {}
    for name, (public, secret) in pairs.items():
        text = _KEY.format(kind="public", public=public)
        files[folder / f"{name}.key"] = text
        hidden = _KEY.format(kind="SECRET: give it to nobody", public=public) + _SECRET.format(secret=secret)
        files[folder / f"{name}.key_secret"] = hidden
        if name == "client":
            files[folder / AUTHORISED / "client.key"] = text
    for path in files:
        if path.exists():
            raise ArgumentError(f"{path} exists; keys are not replaced: move the old ones away first")
    try:
        for made in (folder, folder / AUTHORISED):  # `parents` alone would make the first one open to a group
            made.mkdir(mode=0o700, parents=True, exist_ok=True)
        for path, text in files.items():
            with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
                file.write(text)
    except OSError as error:
        raise ArgumentError(f"the keys cannot be written: {error}") from error
    return list(files)


def server_pair(folder: Path) -> tuple[bytes, bytes]:
    """Return the server's public and secret key. Raises `ArgumentError` where others can write to the folder."""
    check_owned(folder)
    return _secret(folder / "server.key_secret")


def client_pair(folder: Path) -> tuple[bytes, bytes, bytes]:
    """Return the client's public and secret key, and the server's public one.

    **Raises** `ArgumentError` if others can write to the folder, because a replaced `server.key` replaces the server.
    """
    check_owned(folder)
    check_owned(folder / "server.key")
    return (*_secret(folder / "client.key_secret"), _load(folder / "server.key")[0])


def fingerprint(public: bytes | str) -> str:
    """A short name of a public key, for people."""
    return hashlib.sha256(public.encode() if isinstance(public, str) else public).hexdigest()[:12]


def check_owned(path: Path) -> None:
    """Raise `ArgumentError` if users other than the owner and root can change `path` or replace it.

    A file or folder must belong to this user or to root, and must not be writable by its group or by others; no folder
    above it may be writable by others, unless it is sticky as /tmp is. A missing path passes.
    """
    if os.name != "posix":
        return
    try:
        resolved = path.resolve()
        if not resolved.exists():
            return
        found = resolved.stat()
        if found.st_uid not in {0, os.geteuid()}:
            raise ArgumentError(f"{path} belongs to another user (uid {found.st_uid}), who can change it")
        if found.st_mode & 0o022:
            raise ArgumentError(f"{path} can be changed by other users; close it with: chmod go-w {path}")
        for parent in resolved.parents:
            mode = parent.stat().st_mode
            if mode & 0o002 and not mode & stat.S_ISVTX:
                raise ArgumentError(
                    f"{path} can be replaced by other users, who can write to {parent}: chmod o-w {parent}"
                )
    except OSError as error:
        raise ArgumentError(f"{path} cannot be looked at: {error}") from error


class Authorised:
    """The public keys in a folder. All files are read again once a second, so a key is taken away by deleting its file,
    overwriting it or truncating it.

    Raises `ArgumentError` at construction where the folder is missing, or where others can write to it or to a key in
    it. A file that becomes writable by others later authorises no client.
    """

    def __init__(self, folder: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self.folder = folder
        self._clock = clock
        self._looked_at = -math.inf
        self._files: dict[Path, bytes] = {}  # their contents at the last reading
        self._keys: frozenset[bytes] = frozenset()
        if not folder.is_dir():
            raise ArgumentError(f"there is no folder {folder} with the public keys of clients; run `blackprop keys`")
        for path in (folder, *sorted(folder.glob("*.key"))):
            check_owned(path)
        self._refresh()

    def __contains__(self, public: bytes) -> bool:
        self._refresh()
        return public in self._keys

    def __len__(self) -> int:
        return len(self._keys)

    def _refresh(self) -> None:
        if (now := self._clock()) - self._looked_at < 1.0:
            return
        self._looked_at = now
        try:
            files = {path: content for path in self.folder.glob("*.key") if (content := _content(path)) is not None}
        except OSError:  # the folder is gone: no client is authorised
            files = {}
        # Times and sizes of files are not enough to know a change by: a copy can keep both.
        if files != self._files:
            self._files = files
            self._keys = frozenset(key for path, content in files.items() if (key := _public(path, content)))


def _content(path: Path) -> bytes | None:
    """Return the bytes of a key file, None if it is not a file, too long, unreadable or writable by others."""
    try:
        found = path.stat()
        writable = os.name == "posix" and found.st_mode & 0o022
        if writable or not stat.S_ISREG(found.st_mode) or found.st_size > KEY_BYTES:
            return None
        return path.read_bytes()
    except OSError:
        return None


def _public(path: Path, content: bytes) -> bytes | None:
    """Return the public key in a file that held `content`, None where there is none."""
    try:
        public = _load(path)[0]
    except (ArgumentError, OSError):  # half-written, or not a key
        return None
    return public if public in content else None  # it may have changed since it was read


def _secret(path: Path) -> tuple[bytes, bytes]:
    public, secret = _load(path)
    if secret is None:
        raise ArgumentError(f"{path} holds no secret key")
    if os.name == "posix" and path.stat().st_mode & 0o077:
        raise ArgumentError(f"{path} can be read by others; close it with: chmod 600 {path}")
    return public, secret


def _load(path: Path) -> tuple[bytes, bytes | None]:
    zmq = import_zmq()
    from zmq.auth import load_certificate  # noqa: PLC0415  # an extra
    from zmq.utils import z85  # noqa: PLC0415

    if not path.is_file() or path.stat().st_size > KEY_BYTES:
        raise ArgumentError(f"there is no key {path}; `blackprop keys {path.parent}` makes a set of them")
    try:
        public, secret = load_certificate(path)
        valid = len(z85.decode(public)) == 32 and (secret is None or zmq.curve_public(secret) == public)
    except Exception as error:  # the certificate reader and z85 raise various errors for a damaged file
        raise ArgumentError(f"{path} is not a key that can be read: {type(error).__name__}") from error
    if not valid:
        raise ArgumentError(f"{path} is not a key: it is damaged, or its halves do not belong together")
    return public, secret


def import_zmq() -> Any:
    try:
        import zmq  # noqa: PLC0415  # an extra
    except ModuleNotFoundError as error:
        raise ArgumentError(f"a remote device needs the extra `lab`: {install('lab')}") from error
    return zmq
