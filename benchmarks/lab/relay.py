"""A bad line between a client and a server: passes on what each says, loses and damages some of it."""

from __future__ import annotations

import contextlib
import random
import socket
import threading

GREETING = 64  # bytes with which ZMTP begins
LONG, COMMAND = 2, 4  # flags of a frame


class Relay:
    """Listens at `port` and passes on to `upstream`, both of this machine, frame by frame as ZMTP cuts them.

    A frame of a message is lost at the rate `lost`, or has one bit turned at the rate `corrupted`, both ways; the
    handshake is left alone. Under CURVE a turned bit ends the connection, and a new one begins; without, the bit
    arrives.
    """

    def __init__(self, upstream: int, *, lost: float, corrupted: float, seed: int = 0) -> None:
        self.upstream, self.rates, self.passed, self.lost, self.corrupted = upstream, (lost, corrupted), 0, 0, 0
        self._rng, self._lock = random.Random(seed), threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._open: list[socket.socket] = []
        self._threads[0].start()

    def close(self) -> None:
        for one in (self._listener, *self._open):
            _end(one)
        for thread in self._threads:
            thread.join(5)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(("127.0.0.1", self.upstream), 5)
            except OSError:
                client.close()
                continue
            server.settimeout(None)
            self._open += [client, server]
            for source, sink in ((client, server), (server, client)):
                sink.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._threads.append(threading.Thread(target=self._pass, args=(source, sink), daemon=True))
                self._threads[-1].start()

    def _pass(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError, EOFError), source.makefile("rb") as stream:
            for _ in range(GREETING):  # each waits for the other's first bytes before it says the rest
                sink.sendall(_exactly(stream, 1))
            while True:
                flags = _exactly(stream, 1)
                size = _exactly(stream, 8 if flags[0] & LONG else 1)
                body = bytearray(_exactly(stream, int.from_bytes(size, "big")))
                if flags[0] & COMMAND or self._fares(body):
                    sink.sendall(b"".join((flags, size, body)))
        for one in (source, sink):
            _end(one)

    def _fares(self, body: bytearray) -> bool:
        """Whether a frame arrives; damaged, maybe."""
        lost, corrupted = self.rates
        with self._lock:
            chance, where, bit = self._rng.random(), self._rng.randrange(max(1, len(body))), self._rng.randrange(8)
            self.passed += 1
            if chance < lost:
                self.lost += 1
            elif chance < lost + corrupted and body:
                self.corrupted += 1
                body[where] ^= 1 << bit
        return chance >= lost


def _exactly(stream: object, size: int) -> bytes:
    data = stream.read(size)  # pyright: ignore[reportAttributeAccessIssue]
    if len(data) < size:
        raise EOFError
    return data


def _end(one: socket.socket) -> None:
    with contextlib.suppress(OSError):
        one.shutdown(socket.SHUT_RDWR)
    one.close()
