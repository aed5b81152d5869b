"""Messages as bytes: a small header in msgpack, raw arrays behind it, one checksum over both. `docs/protocol.md` has it
word for word.

```
bytes 0-3    "BPL" and the version, one digit
      4-7    CRC-32 of everything behind it        (little-endian, as all numbers here)
      8-11   length H of the header
     12-15   zero
     16-     the header, a msgpack map             then zeros to a multiple of 8
             the arrays, one after the other       each with zeros to a multiple of 8
```

A message travels as one frame or as several, which the receiver joins: pieces of 256 KiB are encrypted, sent and
decrypted at the same time, one whole frame of 64 MiB is not. Decoding cannot run code, and each size is compared
with a limit before memory is allocated for it.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from blackprop._extras import install
from blackprop.errors import ArgumentError, ProtocolError

VERSION = 2
MAGIC = b"BPL"
PREFIX = struct.Struct("<4sIII")
_START, _TAIL = struct.Struct("<4sI"), struct.Struct("<II")
_BEGINNING = MAGIC + b"%d" % VERSION
PIECE_BYTES = 256 * 2**10  # sent as one frame
FRAME_BYTES = 2**20  # the most accepted as one frame
FRAMES = 2048  # the most in one message: more than the pieces and arrays of the largest one
HEADER_BYTES = 64 * 2**10
MESSAGE_BYTES = 256 * 2**20
ARRAYS = 256
DIMENSIONS = 8
DTYPES = {"<f4": np.dtype("<f4"), "<f8": np.dtype("<f8"), "<i8": np.dtype("<i8")}
# A header is a map of small things; an instrument's report is the deepest.
_LIMITS: dict[str, Any] = {
    "max_str_len": 4096,
    "max_bin_len": 0,
    "max_ext_len": 0,
    "max_array_len": 1024,
    "max_map_len": 1024,
    "strict_map_key": True,
}

Buffer = bytes | bytearray | memoryview


@dataclass(frozen=True)
class Message:
    """One message: its kind, its small fields, its arrays."""

    kind: str
    fields: dict[str, Any] = field(default_factory=dict)
    arrays: list[np.ndarray] = field(default_factory=list)

    def __getitem__(self, name: str) -> Any:
        return self.fields[name]


def encode(kind: str, fields: Mapping[str, Any], arrays: Sequence[np.ndarray] = ()) -> list[Buffer]:
    """The frames of a message. Arrays are not copied where the message is large."""
    layout = [[array.dtype.str, list(array.shape)] for array in arrays]
    header = _msgpack().packb({"kind": kind, "arrays": layout, **fields})
    if len(header) > HEADER_BYTES or len(arrays) > ARRAYS:
        raise ArgumentError(f"a message has a header of at most {HEADER_BYTES} bytes and {ARRAYS} arrays")
    rest: list[Buffer] = [header + bytes(-len(header) % 8)]
    for array in arrays:
        if array.nbytes:
            rest.append(np.ascontiguousarray(array).data.cast("B"))
        if array.nbytes % 8:
            rest.append(bytes(8 - array.nbytes % 8))
    size = PREFIX.size + sum(len(part) for part in rest)
    if size > MESSAGE_BYTES:
        raise ArgumentError(
            f"a message holds at most {MESSAGE_BYTES // 2**20} MiB, and this one {size / 2**20:.0f} MiB"
        )
    tail = _TAIL.pack(len(header), 0)
    if size <= PIECE_BYTES:
        sealed = b"".join((tail, *rest))
        return [_START.pack(_BEGINNING, zlib.crc32(sealed)) + sealed]
    crc = 0
    for part in (tail, *rest):
        crc = zlib.crc32(part, crc)
    start = _START.pack(_BEGINNING, crc) + tail
    return [start + bytes(rest[0]), *(piece for part in rest[1:] for piece in pieces(part))]


def pieces(part: Buffer) -> list[Buffer]:
    """A long buffer as several short ones, without a copy."""
    if len(part) <= PIECE_BYTES:
        return [part]
    view = memoryview(part)
    return [view[i : i + PIECE_BYTES] for i in range(0, len(view), PIECE_BYTES)]


def decode(frames: Sequence[Buffer]) -> Message:
    """Return the message in `frames`; raise `ProtocolError`, never another exception, if it is wrong.

    The arrays are views of one new buffer, and may be written to.
    """
    size = sum(len(frame) for frame in frames)
    if size < PREFIX.size:
        raise ProtocolError(f"a message of {size} bytes, of which the prefix alone takes {PREFIX.size}")
    if size > MESSAGE_BYTES:
        raise ProtocolError(f"a message of {size} bytes; at most {MESSAGE_BYTES} are taken")
    if len(frames) > FRAMES:
        raise ProtocolError(f"a message in more than {FRAMES} frames")
    if len(frames[0]) < PREFIX.size:
        raise ProtocolError(f"the first frame has {len(frames[0])} bytes, fewer than the prefix")
    magic, crc, header_size, zero = PREFIX.unpack_from(frames[0])
    if magic != _BEGINNING:
        raise ProtocolError(_wrong_version(version_of(magic)))
    if header_size > min(HEADER_BYTES, size - PREFIX.size) or zero:
        raise ProtocolError(f"a header of {header_size} bytes in a message of {size}; at most {HEADER_BYTES} are taken")
    body = _joined(frames, size, crc)
    start = PREFIX.size + header_size
    fields = _header(bytes(body[PREFIX.size : start]))
    return Message(fields.pop("kind"), fields, _arrays(fields.pop("arrays"), body, start + -start % 8))


def version_of(start: Buffer) -> int | None:
    """Return the version that a message states, None if it is not a message of this protocol."""
    start = bytes(start[:4])
    return start[3] - ord("0") if len(start) == 4 and start[:3] == MAGIC and start[3:].isdigit() else None


def _wrong_version(other: int | None) -> str:
    if other is None:
        return "not a message of this protocol: it does not begin with BPL and a digit"
    return f"a message of version {other} of the protocol; version {VERSION} is spoken here"


def _joined(frames: Sequence[Buffer], size: int, crc: int) -> bytearray | np.ndarray:
    """All frames as one buffer of our own, which begins where a number may begin; the checksum compared on the way."""
    if len(frames) == 1:
        body = bytearray(frames[0])
        found = zlib.crc32(memoryview(body)[8:])
    else:
        body, found, at = np.empty(size, np.uint8), 0, 0
        for frame in frames:
            found = zlib.crc32(frame if at else memoryview(frame)[8:], found)
            body[at : at + len(frame)] = np.frombuffer(frame, np.uint8)
            at += len(frame)
    if found != crc:
        raise ProtocolError(f"damaged on the way: the checksum is {found:08x}, and {crc:08x} was sent")
    return body


def _header(raw: bytes) -> dict[str, Any]:
    try:
        fields = _msgpack().unpackb(raw, **_LIMITS)
    except Exception as error:  # its exceptions have no common base, and a stranger's bytes select them
        raise ProtocolError(f"the header is not msgpack within the limits: {type(error).__name__}") from None
    if not isinstance(fields, dict):
        raise ProtocolError("the header is not a map")
    if not isinstance(fields.get("kind"), str) or not isinstance(fields.get("arrays"), list):
        raise ProtocolError("the header lacks `kind` or `arrays`")
    return fields


def _arrays(layout: list[Any], body: bytearray | np.ndarray, at: int) -> list[np.ndarray]:
    if len(layout) > ARRAYS:
        raise ProtocolError(f"{len(layout)} arrays; at most {ARRAYS} are taken")
    arrays = []
    for i, entry in enumerate(layout):
        dtype, shape = entry if type(entry) is list and len(entry) == 2 else (None, None)
        kind = DTYPES.get(dtype) if type(dtype) is str else None
        if kind is None:
            raise ProtocolError(f"array {i} is of no known type; known are {', '.join(DTYPES)}")
        if type(shape) is not list or len(shape) > DIMENSIONS:
            raise ProtocolError(f"array {i} has no shape of at most {DIMENSIONS} numbers")
        for n in shape:
            if type(n) is not int or not 0 <= n <= MESSAGE_BYTES:
                raise ProtocolError(f"array {i} has a shape that is not of numbers from 0 to {MESSAGE_BYTES}")
        size = math.prod(shape) * kind.itemsize
        if size > len(body) - at:
            raise ProtocolError(f"array {i} is declared with {size} bytes; {max(0, len(body) - at)} are left")
        if math.prod(n for n in shape if n) > MESSAGE_BYTES:  # NumPy limits the other sizes of an empty array too
            raise ProtocolError(f"array {i} is empty, and its shape {shape} is larger than a message")
        arrays.append(np.ndarray(shape, kind, body, at))
        at += size + -size % 8
    if at != len(body):
        raise ProtocolError(f"the arrays end at byte {at} of a message of {len(body)}")
    return arrays


def _msgpack() -> Any:
    global _module  # noqa: PLW0603  # an import statement costs more than a small message
    if _module is None:
        try:
            import msgpack  # noqa: PLC0415  # an extra
        except ModuleNotFoundError as error:
            raise ArgumentError(f"a remote device needs the extra `lab`: {install('lab')}") from error
        _module = msgpack
    return _module


_module: Any = None
