"""Messages survive the way whole, and whatever else comes is a `ProtocolError`."""

from __future__ import annotations

import contextlib
import itertools
import math
import struct
import zlib

import msgpack
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import blackprop as bp
from blackprop import errors
from blackprop.lab.remote.shared import _messages as say
from blackprop.lab.remote.shared import _rounds as rounds
from blackprop.lab.remote.shared import _wire as wire
from blackprop.lab.remote.shared._spec_codec import describe, understand
from support import draw

DTYPES = st.sampled_from(["<f4", "<f8", "<i8"])
SHAPES = st.lists(st.integers(0, 5), max_size=4)
ARRAYS = st.lists(st.tuples(DTYPES, SHAPES), max_size=6)


def frame(header: bytes, body: bytes = b"", magic: bytes = b"BPL2", size: int | None = None) -> bytes:
    """A message with a true checksum, whatever else is wrong with it."""
    rest = struct.pack("<II", len(header) if size is None else size, 0) + header + bytes(-len(header) % 8) + body
    return magic + struct.pack("<I", zlib.crc32(rest)) + rest


def packed(**fields) -> bytes:
    return msgpack.packb({"kind": "status", "id": 1, "arrays": []} | fields)


@given(ARRAYS, st.integers(0, 2**63 - 1), st.text(max_size=50))
@settings(deadline=None, max_examples=200)
def test_a_message_comes_back_as_it_was(layout, number, text):
    arrays = [np.arange(np.prod(shape)).astype(dtype).reshape(shape) for dtype, shape in layout]
    message = wire.decode(wire.encode("status", {"id": number, "text": text}, arrays))
    assert message.kind == "status"
    assert message.fields == {"id": number, "text": text}
    assert [a.dtype for a in message.arrays] == [a.dtype for a in arrays]
    for there, here in zip(message.arrays, arrays, strict=True):
        np.testing.assert_array_equal(there, here)


def test_a_large_message_travels_in_pieces_without_a_copy_and_is_the_same():
    array = draw(300, 1001).numpy()
    frames = wire.encode("status", {"id": 1}, [array])
    assert len(frames) > 4
    assert all(len(f) <= wire.PIECE_BYTES for f in frames)
    assert np.shares_memory(np.frombuffer(frames[1], np.uint8), array)
    np.testing.assert_array_equal(wire.decode(frames).arrays[0], array)
    np.testing.assert_array_equal(wire.decode([b"".join(frames)]).arrays[0], array)


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        ([], "0 bytes"),
        ([b"BPL2"], "prefix alone"),
        ([b"BPL2", bytes(100)], "first frame"),
        ([frame(packed(), magic=b"BPL7")], "version 7 of the protocol; version 2 is spoken here"),
        ([frame(packed(), magic=b"HTTP")], "begin with BPL"),
        ([frame(packed())[:-1] + b"\xff"], "checksum"),
        ([frame(packed(), size=2**31)], "header of 2147483648 bytes"),
        ([frame(packed(), size=5)], "msgpack"),
        ([frame(b"\xc1" * 8)], "msgpack"),
        ([frame(msgpack.packb([1, 2]))], "not a map"),
        ([frame(msgpack.packb({"a": "x" * 5000, "kind": "status", "id": 1, "arrays": []}))], "within the limits"),
        ([frame(msgpack.packb({"kind": "status", "id": 1}))], "lacks"),
        ([frame(packed(arrays=[["<f4", [2]]] * 300), bytes(8 * 300))], "300 arrays"),
        ([frame(packed(arrays=[["<f2", [2]]]), bytes(8))], "known type"),
        ([frame(packed(arrays=[["<O8", [1]]]), bytes(8))], "known type"),
        ([frame(packed(arrays=[["<f4", [2**28, 2**28]]]), bytes(8))], "are left"),
        ([frame(packed(arrays=[["<f4", [0, 2**28, 2**28, 2**28, 2**28]]]))], "larger than a message"),
        ([frame(packed(arrays=[["<f8", [2**28, 2**28, 0]]]))], "larger than a message"),
        ([b"BPL2" + bytes(12)] + [b""] * 5000, "frames"),
        ([frame(packed(arrays=[["<f4", [-1]]]), bytes(8))], "shape"),
        ([frame(packed(arrays=[["<f4", [True]]]), bytes(8))], "shape"),
        ([frame(packed(arrays=[["<f4", [2]]]), bytes(16))], "end at byte"),
        ([frame(packed(kind="open the door"))], "unknown kind"),
        ([frame(packed(id=-1))], "'id'"),
        ([frame(packed(id="1"))], "'id'"),
        ([frame(packed(kind="round"))], "'session'"),
    ],
)
def test_what_is_wrong_with_a_message_is_said(frames, message):
    with pytest.raises(errors.ProtocolError, match=message):
        say.read(frames)


SIZES = st.sampled_from([0, 1, 2, 2**14, 2**27, 2**28])


@given(st.sampled_from(["<f4", "<f8", "<i8"]), st.lists(SIZES, max_size=8))
@settings(deadline=None, max_examples=300)
def test_any_shape_is_an_array_or_a_protocol_error(dtype, shape):
    size = math.prod(shape) * int(dtype[-1])
    body = bytes(size + -size % 8) if size < 2**12 else bytes(8)
    with contextlib.suppress(errors.ProtocolError):
        (array,) = say.read([frame(packed(arrays=[[dtype, shape]]), body)]).arrays
        assert array.shape == tuple(shape)


@given(st.binary(max_size=400), st.integers(0, 3))
@settings(deadline=None, max_examples=250)
def test_random_bytes_are_a_protocol_error(raw, shape):
    forms = [raw, b"BPL2" + raw, frame(raw), frame(raw[:100], raw[100:])]
    with pytest.raises(errors.ProtocolError):
        say.read([forms[shape]])


SMALL = st.one_of(st.none(), st.booleans(), st.integers(-(2**63), 2**64 - 1), st.floats(), st.text(max_size=9))
VALUES = st.recursive(SMALL, lambda s: st.lists(s, max_size=4) | st.dictionaries(st.text(max_size=5), s, max_size=4))


@given(st.sampled_from(list(say._FIELDS)), st.dictionaries(st.text(max_size=8), VALUES, max_size=6), VALUES)
@settings(deadline=None, max_examples=250)
def test_a_true_checksum_over_nonsense_is_a_protocol_error_or_a_whole_message(kind, fields, arrays):
    raw = frame(msgpack.packb({"id": 3, **fields, "kind": kind, "arrays": arrays}))
    try:
        message = say.read([raw])
    except errors.ProtocolError:
        return
    assert all(type(message[name]) is wanted for name, wanted in say._FIELDS[kind].items())


def test_every_single_flipped_bit_is_found():
    (whole,) = wire.encode("status", {"id": 1}, [draw(3).numpy()])
    for i, bit in itertools.product(range(len(whole)), range(8)):
        damaged = bytearray(whole)
        damaged[i] ^= 1 << bit
        with pytest.raises(errors.ProtocolError):
            say.read([damaged])


@given(st.data())
@settings(deadline=None, max_examples=60)
def test_a_round_comes_back_as_it_was_and_shares_what_it_shared(data):
    device = bp.devices.LightModulator(6, 4)
    dtype = data.draw(st.sampled_from([torch.float32, torch.float64]))
    xs = [draw(data.draw(st.integers(0, 4)), 6, seed=i, dtype=dtype) for i in range(3)]
    thetas = [draw(device.theta.size, seed=9 + i) for i in range(3)]
    pick = st.tuples(st.integers(0, 2), st.integers(0, 2), st.sampled_from(list(bp.Purpose)))
    chosen = data.draw(st.lists(pick, min_size=1, max_size=8))
    queries = [bp.Query(xs[i], thetas[j], purpose) for i, j, purpose in chosen]
    arrays = rounds.pack(queries)
    assert len(arrays[0]) == sum(len(xs[i]) for i in {i for i, _, _ in chosen})
    assert len(arrays[1]) == len({j for _, j, _ in chosen})
    back = rounds.unpack(wire.decode(wire.encode("round", {}, arrays)).arrays, device.declaration)
    for there, here in zip(back, queries, strict=True):
        assert torch.equal(there.x, here.x)
        assert there.x.dtype == dtype
        assert torch.equal(there.theta, here.theta)
        assert there.purpose is here.purpose
    for a, b in itertools.combinations(range(len(queries)), 2):
        assert (back[a].theta is back[b].theta) == (queries[a].theta is queries[b].theta)


@given(st.lists(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=5, max_size=5), min_size=1, max_size=3))
@settings(deadline=None, max_examples=200)
def test_a_table_that_points_outside_is_refused(table):
    arrays = [np.zeros((2, 6), "<f4"), np.zeros((1, 24), "<f4"), np.array(table, "<i8")]
    spec = bp.devices.LightModulator(6, 4).declaration
    inside = all(
        f >= 0 and n >= 0 and f + n <= 2 and which == kind == 0 and 0 <= p < len(bp.Purpose)
        for f, n, which, p, kind in table
    )
    if inside:
        assert [len(q.x) for q in rounds.unpack(arrays, spec)] == [n for _, n, *_ in table]
    else:
        with pytest.raises(errors.ProtocolError, match="outside"):
            rounds.unpack(arrays, spec)


def test_half_precision_travels_as_single_and_comes_back_as_half():
    x, theta = draw(2, 6).half(), draw(24)
    queries = [bp.Query(x, theta, bp.Purpose.FORWARD)]
    arrays = rounds.pack(queries)
    assert arrays[0].dtype == np.float32
    joined, out = rounds.pack_readings([torch.from_numpy(arrays[0])], queries)
    (y,) = rounds.unpack_readings(joined, out, queries)
    assert y.dtype == torch.float16
    assert torch.equal(y, x)


def test_readings_that_do_not_fit_travel_as_they_are():
    queries = [bp.Query(draw(2, 6), draw(24), bp.Purpose.FORWARD)] * 2
    wrong = [draw(2, 4), draw(3, 5, dtype=torch.float64), torch.full((1,), torch.nan)]
    joined, arrays = rounds.pack_readings(wrong, queries)
    back = rounds.unpack_readings(joined, arrays, queries)
    assert not joined
    for there, here in zip(back, wrong, strict=True):
        torch.testing.assert_close(there, here, rtol=0, atol=0, equal_nan=True)
    with pytest.raises(errors.ReadingError, match="bfloat16"):
        rounds.pack_readings([draw(2, 4).bfloat16()] * 2, queries)


def test_a_declaration_comes_back_as_it_was():
    device = bp.devices.from_callable(
        lambda x, theta: x,
        in_shape=(2, 3),
        out_shape=4,
        theta_size=24,
        low=-1.0,
        high=torch.arange(24.0),
        period=6.5,
        cost=bp.Cost(0.5, 1e-5),
        noise=0.1,
    )
    fields, arrays = describe(device.declaration)
    frames = wire.encode("welcome", {"device": fields}, arrays)
    back = wire.decode(frames)
    spec = understand(back["device"], back.arrays, lambda generator: torch.zeros(24))
    assert (spec.in_shape, spec.out_shape, spec.linear, spec.cost) == ((2, 3), (4,), False, bp.Cost(0.5, 1e-5))
    assert (spec.noise, spec.coupling, spec.theta.period) == (0.1, bp.Coupling.NONE, 6.5)
    assert spec.theta.low == -1.0
    assert torch.equal(torch.as_tensor(spec.theta.high), torch.arange(24.0))
    assert spec.theta.initial is None
    assert spec.oracle is None


@given(st.dictionaries(st.sampled_from(["in_shape", "parameters", "limits", "period", "coupling", "noise"]), VALUES))
@settings(deadline=None, max_examples=200)
def test_a_declaration_that_cannot_be_is_a_protocol_error(wrong):
    fields, arrays = describe(bp.devices.LightModulator(6, 4).declaration)
    with contextlib.suppress(errors.ProtocolError):
        understand(fields | wrong, arrays, lambda generator: torch.zeros(24))


def test_errors_travel_as_their_class_and_strangers_as_a_device_error():
    for kind in (errors.ReadingError, errors.LimitError, errors.InterlockError, errors.BusyError, errors.ShapeError):
        fields = say.error_fields(kind("too hot"), bp.core.Count())
        back = say.error_of(say.read(wire.encode("error", {"id": 1, **fields})))
        assert type(back) is kind
        assert str(back) == "too hot"
    back = say.error_of(wire.Message("error", say.error_fields(ZeroDivisionError("oh"), bp.core.Count())))
    assert type(back) is errors.DeviceError
    assert str(back) == "ZeroDivisionError: oh"
    assert type(say.error_of(wire.Message("error", {"error": "SystemExit", "text": "1"}))) is errors.DeviceError
