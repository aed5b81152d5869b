"""A client written from docs/protocol.md alone: it imports nothing of the library that it speaks to."""

from __future__ import annotations

import itertools
import re
import struct
import zlib
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
import torch

from serving import Recorder, lines, served

zmq = pytest.importorskip("zmq")


class Client:
    """What the page says, and no more. Arrays are (type, shape, bytes)."""

    def __init__(self, address: str, keys: Path) -> None:
        secret, server = (keys / "client.key_secret").read_text(), (keys / "server.key").read_text()

        def key(text: str, name: str) -> bytes:
            found = re.search(rf'{name}-key = "(.*)"', text)
            assert found is not None
            return found[1].encode()

        self.context = zmq.Context()
        self.socket = self.context.socket(zmq.DEALER)
        self.socket.linger = 0
        self.socket.maxmsgsize = 2**20
        self.socket.rcvtimeo = 5000
        self.socket.curve_serverkey = key(server, "public")
        self.socket.curve_publickey, self.socket.curve_secretkey = key(secret, "public"), key(secret, "secret")
        self.socket.connect(address)
        welcome, self.limits = self.ask("hello", 1, resume="")
        assert welcome["kind"] == "welcome"
        self.device, self.place = welcome["device"], {name: welcome[name] for name in ("session", "boot")}

    def say(self, kind: str, number: int, arrays: list[np.ndarray] = [], cut: int | None = None, **fields) -> None:  # noqa: B006
        layout = [[array.dtype.str, list(array.shape)] for array in arrays]
        header = msgpack.packb({"kind": kind, "id": number, "arrays": layout, **fields})
        assert isinstance(header, bytes)
        body = header + bytes(-len(header) % 8)
        for array in arrays:
            body += array.tobytes() + bytes(-array.nbytes % 8)
        rest = struct.pack("<II", len(header), 0) + body
        message = b"BPL2" + struct.pack("<I", zlib.crc32(rest)) + rest
        size = cut or len(message)
        self.socket.send_multipart([message[i : i + size] for i in range(0, len(message), size)])

    def hear(self) -> tuple[dict[str, Any], list[np.ndarray]]:
        message = b"".join(self.socket.recv_multipart())
        start, crc, size, zero = struct.unpack_from("<4sIII", message)
        assert (start, crc, zero) == (b"BPL2", zlib.crc32(message[8:]), 0)
        header, at, arrays = msgpack.unpackb(message[16 : 16 + size]), 16 + size + -size % 8, []
        for dtype, shape in header["arrays"]:
            count = int(np.prod(shape, dtype=np.int64))
            arrays.append(np.frombuffer(message, dtype, count, at).reshape(shape))
            at += arrays[-1].nbytes + -arrays[-1].nbytes % 8
        assert at == len(message)
        return header, arrays

    def ask(self, kind: str, number: int, arrays: list[np.ndarray] = [], **fields):  # noqa: B006
        self.say(kind, number, arrays, **fields)
        header, found = self.hear()
        assert header["id"] == number
        return header, found

    def round(self, number: int, rows, settings, queries, **more):
        arrays = [np.array(rows, "<f4"), np.array(settings, "<f4"), np.array(queries, "<i8")]
        return self.ask("round", number, arrays, fresh=False, kinds=["read"], **self.place, **more)

    def close(self) -> None:
        self.say("bye", 0, session=self.place["session"])
        self.context.destroy(linger=300)


@pytest.fixture
def client(keys, record):
    with served(lambda: Recorder(record), keys) as server:
        client = Client(server.address, keys)
        yield client
        client.close()


def test_it_learns_what_the_device_is(client):
    assert client.device["in_shape"] == client.device["out_shape"] == [3]
    assert (client.device["parameters"], client.device["limits"]) == (3, ["low", "high"])
    assert (client.device["linear"], client.device["coupling"], client.device["period"]) == (True, "none", None)
    assert [float(limit) for limit in client.limits] == [-2.0, 2.0]
    assert client.ask("draw", 5, seed=3)[1][0].shape == (3,)
    assert client.ask("status", 6)[0]["report"]["sessions"] == 1


@pytest.mark.parametrize("cut", [None, 16, 50])
def test_it_measures_and_is_told_what_was_done(client, record, cut):
    rows, settings = [[1, 2, 3], [4, 5, 6]], [[1, 1, 1], [0.5, 0.5, 0.5]]
    queries = [[0, 2, 0, 0, 0], [1, 1, 1, 1, 0], [0, 1, 1, 2, 0]]
    header, (readings,) = client.round(1, rows, settings, queries, cut=cut)
    assert (header["kind"], header["joined"]) == ("answer", True)
    assert readings.tolist() == [[1, 2, 3], [4, 5, 6], [2, 2.5, 3], [0.5, 1, 1.5]]
    assert header["rows"] == {"forward": 2, "parameter": 1, "surrogate": 1}
    assert header["programmings"] == {"forward": 1, "parameter": 1}
    again, (same,) = client.ask("ask", 1, **client.place)
    assert (again, same.tolist()) == (header, readings.tolist())
    assert client.round(1, rows, settings, queries)[0] == header
    assert len(lines(record, "read")) == 4


def test_it_is_refused_what_the_page_says_is_refused(client, record):
    one = [[1, 1, 1]]
    wrong = {
        "a setting outside the limits": (one, [[3, 0, 0]], [[0, 1, 0, 0, 0]], "LimitError"),
        "a setting of no query outside": (
            one,
            [[0, 0, 0], [3, 0, 0]],
            [[0, 1, 0, 0, 0], [0, 1, 0, 0, 0]],
            "LimitError",
        ),
        "a row that is not finite": ([[np.nan, 1, 1]], one, [[0, 1, 0, 0, 0]], "LimitError"),
        "a row of another shape": ([[1, 1]], one, [[0, 1, 0, 0, 0]], "ShapeError"),
        "more settings than queries": (one, one * 2, [[0, 1, 0, 0, 0]], "ProtocolError"),
        "no query": (one, np.zeros((0, 3)), np.zeros((0, 5)), "ProtocolError"),
        "a query outside": (one, one, [[0, 2, 0, 0, 0]], "ProtocolError"),
        "an answer that is too large": (one * 1000, one, [[0, 1000, 0, 0, 0]] * 25_000, "ShapeError"),
    }
    for (what, (rows, settings, queries, error)), number in zip(wrong.items(), itertools.count(1), strict=False):
        header, _ = client.round(number, rows, settings, queries)
        assert (header["kind"], header["error"], header["rows"]) == ("error", error, {}), what
    assert lines(record) == []
    assert client.ask("ask", 1, **client.place)[0]["state"] == "lost"


def test_a_round_is_lost_cancelled_or_late_as_the_page_says(client, record):
    assert client.ask("ask", 4, **client.place)[0]["state"] == "lost"
    header, _ = client.round(4, [[1, 1, 1]], [[1, 1, 1]], [[0, 1, 0, 0, 0]])
    assert header["kind"] == "answer"
    client.say("ask", 3, **client.place)  # a smaller one is late, and gets no answer
    assert client.ask("cancel", 4, **client.place)[0] == header
    assert client.ask("ask", 9, session="0" * 32, boot=client.place["boot"])[0]["kind"] == "again"
    assert client.ask("hello", 10, resume=client.place["session"])[0]["resumed"]
    assert len(lines(record, "read")) == 1


def test_a_setting_by_hand_reads_nothing(client, record):
    header, (readings,) = client.round(1, np.zeros((0, 3)), [[1, 0.5, 0]], [[0, 0, 0, 4, 0]])
    assert (readings.shape, header["programmings"]) == ((0, 3), {"calibrate": 1})
    assert lines(record) == [f"program {torch.tensor([1, 0.5, 0]).tolist()}"]


def test_a_message_of_another_version_is_told_both(client):
    client.socket.send(b"BPL9" + bytes(60))
    header, _ = client.hear()
    assert (header["kind"], header["id"], header["error"]) == ("error", 0, "ProtocolError")
    assert "version 9" in header["text"]
    assert "version 2" in header["text"]
