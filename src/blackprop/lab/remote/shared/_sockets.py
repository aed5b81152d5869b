"""The sockets of a server and of a client: access, limits before a message is read, and frames."""

from __future__ import annotations

import contextlib
import ipaddress
import math
import os
import re
import socket as sockets
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from blackprop.errors import ArgumentError, UnreachableError
from blackprop.lab.remote.shared import _wire as wire
from blackprop.lab.remote.shared._keys import AUTHORISED, Authorised, client_pair, import_zmq, server_pair

_ADDRESS = re.compile(r"tcp://(\[[0-9a-fA-F:.]+\]|[^:/\[\]\s]+):([0-9]+|\*)")
AT_ONCE = 1000  # frames of a message that are received before a round may be begun
REFUSED = 5.0  # s for which a key is not let in that has sent a message in too many frames
_ZAP = "inproc://zeromq.zap.01"
# Silence, in place of a refusal: a client without a key cannot tell a server that knows it not from none at all.
_SILENCE, _WELCOME = b"300", b"200"


def split(address: str) -> tuple[str, str]:
    """Host and port of `tcp://host:port`."""
    match = _ADDRESS.fullmatch(address)
    if match is None or (match[2] != "*" and int(match[2]) > 65535):
        raise ArgumentError(f"an address is written tcp://host:port, got {address!r}")
    return match[1].strip("[]"), match[2]


def is_loopback(host: str) -> bool:
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"


class ServerSockets:
    """The server's ROUTER socket, and the desk at which handshakes are accepted or left unanswered."""

    def __init__(self, bind: str, keys: Path | None) -> None:
        self._zmq = zmq = import_zmq()
        host, _ = split(bind)
        if keys is None and not is_loopback(host):
            raise ArgumentError(f"without keys a device is served on this machine alone, and {host} is not loopback")
        pair = None if keys is None else server_pair(keys)
        self.authorised = None if keys is None else Authorised(keys / AUTHORISED)
        self.context = zmq.Context()
        try:
            self.desk = self.context.socket(zmq.REP)  # there before the first handshake, or anyone would be let in
            self.desk.linger = 0
            self.desk.bind(_ZAP)
            self.router = self.context.socket(zmq.ROUTER)
            _limit(zmq, self.router)
            self.router.sndhwm = self.router.rcvhwm = 8
            self.router.ipv6 = ":" in host
            self.router.zap_domain = b"blackprop"
            if pair is not None:
                self.router.curve_server = True
                self.router.curve_publickey, self.router.curve_secretkey = pair
            self.router.bind(bind)
        except zmq.ZMQError as error:
            self.close()
            raise ArgumentError(f"{bind} cannot be served at: {error}; does another server run there?") from error
        self._milliseconds: int | None = None
        self._refused: dict[bytes, float] = {}  # until when
        self._begun: tuple[Any, Any, list[Any]] | None = None  # a message under way: its route, last frame and frames
        self.address: str = self.router.last_endpoint.decode().rstrip("\0")

    def receive(self, milliseconds: int) -> tuple[bytes, bytes, list[Any]] | None:
        """The sender's route, its public key (empty without keys) and the frames of the next message.

        None for none, and for a message in many frames of which a part has been received: call again.
        """
        if self._begun is None and (route := self._next(milliseconds)) is not None:
            self._begun = (route, route, [])
        if self._begun is None:
            return None
        route, frame, frames = self._begun
        before, user = len(frames), b"" if self.authorised is None else str(route.get("User-Id")).encode()
        frame = _rest(self.router, frame, frames, wire.FRAMES + 1, AT_ONCE)
        if before <= wire.FRAMES < len(frames):
            self._cut(route, user)
        self._begun = (route, frame, frames) if frame.more else None
        return None if frame.more else (route.bytes, user, frames)

    def _cut(self, route: Any, user: bytes) -> None:
        """End the connection of a message in too many frames, which cost time and not bytes, and refuse its key."""
        if user:
            self._refused[user] = time.monotonic() + REFUSED
        with contextlib.suppress(OSError, ValueError):  # it has gone
            connection = sockets.socket(fileno=os.dup(route.get(self._zmq.SRCFD)))
            with contextlib.closing(connection):
                connection.shutdown(sockets.SHUT_RDWR)

    def _next(self, milliseconds: int) -> Any:
        if milliseconds and milliseconds != self._milliseconds:
            self.router.rcvtimeo = self._milliseconds = milliseconds
        try:
            return self.router.recv(0 if milliseconds else self._zmq.DONTWAIT, copy=False)
        except self._zmq.Again:
            return None

    def authorises(self, user: bytes) -> bool:
        """Whether the client with this public key may speak; without keys, every client."""
        return self.authorised is None or user in self.authorised

    def send(self, route: bytes, frames: Sequence[wire.Buffer]) -> Any:
        """Send, or drop the message if the client does not take it or has gone: it asks again.

        Returns ZeroMQ's tracker of a message in several frames, whose `done` tells that it holds them no longer; None
        for a single frame, which is copied, and for a message that was dropped.
        """
        with contextlib.suppress(self._zmq.ZMQError):
            if len(frames) > 1:
                return self.router.send_multipart([route, *frames], self._zmq.DONTWAIT, copy=False, track=True)
            self.router.send(route, self._zmq.SNDMORE | self._zmq.DONTWAIT)
            self.router.send(frames[0], self._zmq.DONTWAIT)
        return None

    def attend(self, milliseconds: int) -> None:
        """Wait for a handshake so long, and accept it or leave it unanswered."""
        if not self.desk.poll(milliseconds):
            return
        request = self.desk.recv_multipart()
        if len(request) < 6:  # no handshake of this library's
            self.desk.send_multipart([b"1.0", request[1] if len(request) > 1 else b"", _SILENCE, b"", b"", b""])
            return
        version, number, _, _, _, mechanism, *credentials = request
        user = b""
        if self.authorised is None:
            known = mechanism == b"NULL"
        else:
            from zmq.utils import z85  # noqa: PLC0415  # an extra

            user = z85.encode(credentials[0]) if mechanism == b"CURVE" and len(credentials) == 1 else b""
            known = user in self.authorised and time.monotonic() > self._refused.get(user, -math.inf)
        self.desk.send_multipart([version, number, _WELCOME if known else _SILENCE, b"", user if known else b"", b""])

    def close(self) -> None:
        self.context.destroy(linger=1000)


class ClientSocket:
    """The client's DEALER socket; it connects again by itself."""

    def __init__(self, address: str, keys: Path | None) -> None:
        self._zmq = zmq = import_zmq()
        host, port = split(address)
        credentials = None if keys is None else client_pair(keys)
        try:
            found = sockets.getaddrinfo(host, int(port), type=sockets.SOCK_STREAM)
        except (OSError, ValueError, UnicodeError) as error:
            raise UnreachableError(f"there is no host {host!r} (port {port}): {error}") from error
        self.context = zmq.Context()
        self.socket = self.context.socket(zmq.DEALER)
        _limit(zmq, self.socket)
        self.socket.linger = 0
        self.socket.reconnect_ivl, self.socket.reconnect_ivl_max = 50, 1000
        self.socket.ipv6 = all(family == sockets.AF_INET6 for family, *_ in found)
        if credentials is not None:
            self.socket.curve_publickey, self.socket.curve_secretkey, self.socket.curve_serverkey = credentials
        self._milliseconds: int | None = None
        self._address = address
        self.socket.connect(address)

    def send(self, frames: Sequence[wire.Buffer]) -> None:
        """Send, or drop the message if too many wait already: messages without an answer are repeated."""
        try:
            self._send(frames)
        except self._zmq.Again:
            # After a frame that CURVE finds forged, ZeroMQ gives the connection up for good; this makes another.
            with contextlib.suppress(self._zmq.ZMQError):
                self.socket.disconnect(self._address)
            self.socket.connect(self._address)
            with contextlib.suppress(self._zmq.Again):
                self._send(frames)

    def _send(self, frames: Sequence[wire.Buffer]) -> None:
        if len(frames) == 1:
            self.socket.send(frames[0], self._zmq.DONTWAIT)
        else:
            self.socket.send_multipart(frames, self._zmq.DONTWAIT, copy=False)

    def receive(self, seconds: float) -> list[Any] | None:
        """The frames of the next message, None where none comes within so many seconds."""
        milliseconds = max(0, round(1000 * seconds))
        if milliseconds != self._milliseconds:
            self.socket.rcvtimeo = self._milliseconds = milliseconds
        try:
            first = self.socket.recv(copy=False)
        except self._zmq.Again:
            return None
        frames: list[Any] = [first.buffer]
        _rest(self.socket, first, frames, wire.FRAMES + 1)
        return frames

    def close(self, linger: int) -> None:
        self.context.destroy(linger=linger)


def _rest(socket: Any, frame: Any, frames: list[Any], most: int, at_once: float = math.inf) -> Any:
    """Append the frames behind `frame` in its message, all of which are here, to `frames`; return the last one.

    Beyond `most` frames, or more bytes than a message may have, the others are dropped, and the kept part is refused.
    """
    size, receive = sum(map(len, frames)), socket.recv
    while frame.more and at_once > 0:
        frame, at_once = receive(0, False), at_once - 1
        if len(frames) < most and size <= wire.MESSAGE_BYTES:
            frames.append(frame.buffer)
            size += len(frame.buffer)
    return frame


def _limit(zmq: Any, socket: Any) -> None:
    """Set the limits by which ZeroMQ itself refuses messages and drops connections."""
    socket.maxmsgsize = wire.FRAME_BYTES
    socket.handshake_ivl = 5000
    socket.heartbeat_ivl, socket.heartbeat_timeout = 5000, 15000
    socket.setsockopt(zmq.TCP_KEEPALIVE, 1)
