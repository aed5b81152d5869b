"""Who may speak to a server: key pairs in a folder, and the folder of those that are authorised."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from blackprop.errors import ArgumentError

AUTHORISED = "authorised"
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
        (folder / AUTHORISED).mkdir(mode=0o700, parents=True, exist_ok=True)
        for path, text in files.items():
            with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
                file.write(text)
    except OSError as error:
        raise ArgumentError(f"the keys cannot be written: {error}") from error
    return list(files)


def server_pair(folder: Path) -> tuple[bytes, bytes]:
    """The server's public and secret key."""
    return _secret(folder / "server.key_secret")


def client_pair(folder: Path) -> tuple[bytes, bytes, bytes]:
    """The client's public and secret key, and the server's public one."""
    return (*_secret(folder / "client.key_secret"), _load(folder / "server.key")[0])


def fingerprint(public: bytes | str) -> str:
    """A short name of a public key, for people."""
    return hashlib.sha256(public.encode() if isinstance(public, str) else public).hexdigest()[:12]


class Authorised:
    """The public keys in a folder, read again when it has changed: a key is taken away by deleting its file."""

    def __init__(self, folder: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self.folder = folder
        self._clock = clock
        self._read_at: int | None = None
        self._looked_at = -1.0
        self._keys: frozenset[bytes] = frozenset()
        if not folder.is_dir():
            raise ArgumentError(f"there is no folder {folder} with the public keys of clients; run `blackprop keys`")
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
            changed = self.folder.stat().st_mtime_ns
            if changed == self._read_at:
                return
            files = sorted(self.folder.glob("*.key"))
        except OSError:  # a folder that is gone authorises nobody
            self._read_at, self._keys = None, frozenset()
            return
        self._read_at, self._keys = changed, frozenset(key for file in files if (key := _public(file)))


def _public(path: Path) -> bytes | None:
    try:
        return _load(path)[0]
    except ArgumentError:  # half-written, or not a key: it authorises nobody
        return None


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

    if not path.is_file():
        raise ArgumentError(f"there is no key {path}; `blackprop keys {path.parent}` makes a set of them")
    try:
        public, secret = load_certificate(path)
        valid = len(z85.decode(public)) == 32 and (secret is None or zmq.curve_public(secret) == public)
    except Exception as error:  # the certificate reader and z85 raise whatever a damaged file leads them to
        raise ArgumentError(f"{path} is not a key that can be read: {type(error).__name__}") from error
    if not valid:
        raise ArgumentError(f"{path} is not a key: it is damaged, or its halves do not belong together")
    return public, secret


def import_zmq() -> Any:
    try:
        import zmq  # noqa: PLC0415  # an extra
    except ModuleNotFoundError as error:
        raise ArgumentError('a remote device needs the extra `lab`: pip install "blackprop[lab]"') from error
    return zmq
