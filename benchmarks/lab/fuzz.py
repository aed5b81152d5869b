"""A served device under messages that are wrong, for as long as one likes: it serves on, and its memory stays.

    python benchmarks/lab/fuzz.py --minutes 10 [--atheris]

True messages of every kind are changed at random: bytes, lengths, types, fields, order, and sent by an authorised
client; strangers knock with keys that are not. Every second a true round is measured and compared.

With `--atheris` (pip install atheris) there is no server: what reads messages is fuzzed alone, guided by coverage.
Bytes are read as they come, and as header and arrays under a true checksum; any error but the library's own is a find.
"""

from __future__ import annotations

import argparse
import copy
import inspect
import multiprocessing
import random
import struct
import tempfile
import time
import zlib
from multiprocessing.connection import Connection as Pipe
from pathlib import Path
from typing import Any

import msgpack
import torch

import blackprop as bp
from blackprop.core import Count
from blackprop.errors import BlackpropError, ProtocolError
from blackprop.lab import RemoteDevice, Server
from blackprop.lab.remote.client._connection import Connection
from blackprop.lab.remote.shared import _messages as say
from blackprop.lab.remote.shared import _rounds as rounds
from blackprop.lab.remote.shared import _spec_codec as describing
from blackprop.lab.remote.shared import _wire as wire
from blackprop.lab.remote.shared._keys import make_keys

ODD: tuple[Any, ...] = (None, True, -1, 2**63, 2**64 - 1, 1e308, "", "x" * 5000, [], [[]], {}, {"": 0}, [2**40, 2**40])


def serve(keys: Path, ready: Pipe) -> None:
    torch.set_num_threads(1)
    server = Server(lambda: bp.devices.LightModulator(6, 4), "tcp://127.0.0.1:0", keys=keys)
    ready.send(server.address)
    server.serve()


def sealed(header: bytes, body: bytes) -> bytes:
    """A message with a true checksum, whatever else is wrong with it."""
    rest = struct.pack("<II", len(header), 0) + header + bytes(-len(header) % 8) + body
    return b"BPL1" + struct.pack("<I", zlib.crc32(rest)) + rest


def wrong(rng: random.Random, fields: dict[str, Any], body: bytes) -> list[bytes]:
    """One message, more or less wrong."""
    header = {"kind": rng.choice([*say._FIELDS, "else"]), "id": rng.randrange(2**63), **fields}
    header["arrays"] = [["<f4", [2, 6]], ["<f4", [1, 24]], ["<i8", [1, 4]]]
    for _ in range(rng.randrange(3)):
        header[rng.choice(list(header))] = copy.deepcopy(rng.choice(ODD))
    if rng.random() < 0.3 and isinstance(header["arrays"], list) and header["arrays"]:
        header["arrays"][rng.randrange(len(header["arrays"]))] = [
            rng.choice(["<f4", "<f8", "<i8", "<O", 3]),
            copy.deepcopy(rng.choice(ODD)),
        ]
    raw = bytearray(sealed(msgpack.packb(header) or b"", body))
    for _ in range(rng.choice([0, 0, 1, 5])):
        raw[rng.randrange(len(raw))] = rng.randrange(256)
    if rng.random() < 0.3:
        raw = raw[: rng.randrange(len(raw))]
    if rng.random() < 0.1:
        raw += rng.randbytes(rng.randrange(2**19))
    cut = rng.randrange(len(raw) + 1)
    return [bytes(raw)] if rng.random() < 0.5 else [bytes(raw[:cut]), bytes(raw[cut:])]


def reads(data: bytes) -> None:
    """What a server and a client do with bytes from a stranger; they may raise errors of the library, and no other."""
    way, cut, rest = data[:1], int.from_bytes(data[1:3], "little"), data[3:]
    frames = [rest[:cut], rest[cut:]] if way < b"\x40" else [sealed(rest[:cut], rest[cut:])]
    try:
        message = say.read(frames)
        if message.kind == say.ROUND:
            spec = bp.devices.LightModulator(6, 4).declaration
            rounds.unpack(message.arrays, spec, message["kinds"])
        elif message.kind == say.ANSWER:
            query = bp.Query(torch.zeros(2, 6), torch.zeros(24), bp.Purpose.FORWARD)
            rounds.unpack_readings(message["joined"], message.arrays, [query])
            say.spent_of(message)
        elif message.kind == say.WELCOME:
            describing.understand(message["device"], message.arrays, lambda generator: torch.zeros(24))
        elif message.kind == say.ERROR:
            say.error_of(message)
    except BlackpropError:
        pass


def examples() -> list[bytes]:
    """True messages, as `reads` takes them."""
    device = bp.devices.LightModulator(6, 4).declaration
    query = bp.Query(torch.ones(2, 6), torch.ones(24), bp.Purpose.FORWARD)
    session, spent = {"session": "0" * 32, "boot": "0" * 16}, say.spent_fields(Count())
    arrays = rounds.pack([query])
    description, limits = describing.describe(device)
    welcome = {**session, "resumed": False, "lease_milliseconds": 1, "device": description}
    messages = [
        wire.encode(say.ROUND, {"id": 1, "fresh": False, "kinds": ["read"], **session}, arrays),
        wire.encode(say.ANSWER, {"id": 1, "joined": True, **spent}, [torch.ones(2, 4).numpy()]),
        wire.encode(say.WELCOME, {"id": 1, **welcome}, limits),
        wire.encode(say.ERROR, {"id": 1, "error": "LimitError", "text": "no", **spent}),
        wire.encode(say.STATE, {"id": 1, "state": say.QUEUED, "place": 1}),
    ]
    found = []
    for raw in (bytes(frames[0]) for frames in messages):
        size = struct.unpack_from("<I", raw, 8)[0]
        header, body = raw[16 : 16 + size], raw[16 + size + -size % 8 :]
        found += [b"\x00\xff\xff" + raw, b"\xff" + struct.pack("<H", size) + header + body]
    return found


def guided(folder: Path, minutes: float, seed: int) -> None:
    """Fuzz `reads` until the time is over; does not return."""
    import atheris  # noqa: PLC0415  # pyright: ignore[reportMissingImports]  # nobody else needs it

    for module in (wire, say, rounds, describing):
        for value in list(vars(module).values()):
            if inspect.isfunction(value) and value.__module__ == module.__name__:
                atheris.instrument_func(value)  # pyright: ignore[reportAttributeAccessIssue]
    for number, example in enumerate(examples()):
        reads(example)
        (folder / str(number)).write_bytes(example)
    limits = [f"-max_total_time={int(60 * minutes)}", "-max_len=4096", f"-seed={seed + 1}", "-print_final_stats=1"]
    atheris.Setup([__file__, *limits, "-rss_limit_mb=0", str(folder)], reads)
    atheris.Fuzz()


def memory(pid: int) -> float:
    text = Path(f"/proc/{pid}/status").read_text()
    return int(text.split("VmRSS:")[1].split()[0]) / 1024


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--atheris", action="store_true", help="fuzz what reads messages, guided by coverage")
    options = parser.parse_args()
    if options.atheris:
        with tempfile.TemporaryDirectory() as folder:
            guided(Path(folder), options.minutes, options.seed)
    torch.set_num_threads(1)
    rng, local = random.Random(options.seed), bp.devices.LightModulator(6, 4)
    with tempfile.TemporaryDirectory() as folder:
        keys, stranger = Path(folder) / "keys", Path(folder) / "stranger"
        make_keys(keys)
        make_keys(stranger)
        (stranger / "server.key").write_bytes((keys / "server.key").read_bytes())
        ready, theirs = multiprocessing.Pipe(duplex=False)
        process = multiprocessing.Process(target=serve, args=(keys, theirs), daemon=True)
        process.start()
        address = ready.recv()
        sent = checked = knocked = 0
        begun, start = time.monotonic(), None
        connection = Connection(address, keys)
        with RemoteDevice(address, keys=keys) as device:
            fields = {
                "session": device._session,
                "boot": device._boot,
                "fresh": False,
                "resume": "",
                "seed": 1,
                "kinds": ["read"],
            }
            query = bp.Query(torch.randn(2, 6), local.theta.draw(torch.Generator().manual_seed(0)), bp.Purpose.FORWARD)
            body = b"".join(array.tobytes() for array in rounds.pack([query]))
            while time.monotonic() - begun < 60 * options.minutes:
                until = time.monotonic() + 1
                while time.monotonic() < until:
                    fields["session"] = rng.choice([rng.randbytes(16).hex(), "", device._session[:-1]])
                    connection.send(wrong(rng, fields, body))
                    sent += 1
                    if sent % 50 == 0:
                        drain(connection)
                other = Connection(address, stranger)
                other.send(wire.encode(say.STATUS, {"id": 1}))
                knocked += 1
                if other.receive(0.05) is not None:
                    raise SystemExit("a stranger was answered")
                other.close()
                if not torch.equal(device.measure([query])[0], local.measure([query])[0]):
                    raise SystemExit("a wrong answer")
                checked += 1
                if start is None and sent > 5000:
                    start = memory(process.pid or 0)
            grown = memory(process.pid or 0) - (start or memory(process.pid or 0))
        connection.close()
        process.kill()
        process.join()
    print(f"{sent:,} wrong messages, {knocked:,} strangers, {checked:,} rounds right; memory grew by {grown:.1f} MiB")


def drain(connection: Connection) -> None:
    while True:
        try:
            if connection.hear(0.001) is None:
                return
        except ProtocolError:
            continue


if __name__ == "__main__":
    multiprocessing.set_start_method("spawn")
    main()
