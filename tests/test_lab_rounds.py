"""A round as arrays: what is sent once, what is refused, and readings in the dtype and at the place of their rows."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pytest
import torch

import blackprop as bp
from blackprop.core import Capability, Ledger, Purpose, Query, Round, ask, metered, run
from blackprop.errors import ArgumentError, LimitError, ProtocolError, ReadingError, ShapeError
from blackprop.lab.remote.shared import _rounds as rounds
from blackprop.lab.remote.shared import _wire as wire
from support import draw

SPEC = bp.devices.LightModulator(6, 4).declaration


def query(rows: int = 2, seed: int = 0, dtype: torch.dtype = torch.float32, theta=None) -> Query:
    theta = draw(24, seed=seed) if theta is None else theta
    return Query(draw(rows, 6, seed=seed, dtype=dtype), theta, Purpose.FORWARD)


@pytest.mark.parametrize("sizes", [(3,), (3, 2), (0, 2), (2, 0, 1)])
def test_rows_and_settings_stand_where_the_table_says(sizes):
    queries = [query(size, seed) for seed, size in enumerate(sizes)]
    rows, settings, table = rounds.pack(queries)
    assert rows.shape == (sum(sizes), 6)
    assert settings.shape == (len(sizes), 24)
    for (start, size, which, _, _), asked in zip(table.tolist(), queries, strict=True):
        np.testing.assert_array_equal(rows[start : start + size], asked.x.numpy())
        np.testing.assert_array_equal(settings[which], asked.theta.numpy())


def test_what_is_shared_is_sent_once_and_alone_without_a_copy():
    one = query()
    rows, settings, table = rounds.pack([one, one, Query(one.x, one.theta, Purpose.PARAMETER)])
    assert (rows.shape, settings.shape) == ((2, 6), (1, 24))
    assert table[:, :3].tolist() == [[0, 2, 0]] * 3
    assert table[0, 3] == table[1, 3] != table[2, 3]
    assert np.shares_memory(rows, one.x.numpy())
    assert np.shares_memory(settings, one.theta.numpy())


@pytest.mark.parametrize(("kind", "sent"), [(torch.float64, np.float64), (torch.bfloat16, np.float32)])
def test_tensors_travel_in_their_own_kind_or_the_next_wider(kind, sent):
    rows, settings, _ = rounds.pack([Query(draw(2, 6).to(kind), draw(24).to(kind), Purpose.FORWARD)])
    assert rows.dtype == settings.dtype == sent


def test_a_round_of_unlike_tensors_is_refused():
    with pytest.raises(ShapeError, match=r"one shape, dtype and device, got .* torch.float32 .* torch.float64"):
        rounds.pack([query(2, 0), query(2, 1, torch.float64)])


@pytest.mark.parametrize("dtype", [torch.complex64, torch.int8])
def test_what_cannot_travel_is_refused(dtype):
    with pytest.raises(ArgumentError, match="travel as float32"):
        rounds.pack([Query(draw(2, 6).to(dtype), draw(24), Purpose.FORWARD)])


def test_rows_in_any_layout_travel_in_order():
    x = draw(6, 4).mT
    rows, _, _ = rounds.pack([Query(x, draw(24), Purpose.FORWARD)])
    np.testing.assert_array_equal(rows, x.numpy())
    assert rows.flags.c_contiguous


def packed() -> list[np.ndarray]:
    return [np.array(a) for a in rounds.pack([query(2, 0), query(3, 1)])]


@pytest.mark.parametrize(
    ("spoil", "error"),
    [
        (lambda a: a[:2], ProtocolError),
        (lambda a: [*a, a[0]], ProtocolError),
        (lambda a: [a[0], a[1], a[2][:, :4]], ProtocolError),
        (lambda a: [a[0], a[1], a[2].ravel()], ProtocolError),
        (lambda a: [a[0], a[1], a[2].astype(np.float64)], ProtocolError),
        (lambda a: [a[0][:, :5], a[1], a[2]], ShapeError),
        (lambda a: [a[0].reshape(-1), a[1], a[2]], ShapeError),
        (lambda a: [a[0].sum(), a[1], a[2]], ShapeError),
        (lambda a: [a[0], a[1][:, :23], a[2]], ShapeError),
        (lambda a: [a[0], a[1][0], a[2]], ShapeError),
        (lambda a: [a[0], a[1].astype(np.int64), a[2]], ShapeError),
        (lambda a: [a[0][:-1], a[1], a[2]], ProtocolError),
        (lambda a: [a[0], a[1][:-1], a[2]], ProtocolError),
    ],
)
def test_arrays_that_are_no_round_of_this_device_are_refused(spoil, error):
    assert len(rounds.unpack(packed(), SPEC)) == 2
    with pytest.raises(error):
        rounds.unpack([np.asarray(a) for a in spoil(packed())], SPEC)


@pytest.mark.parametrize(
    "line",
    [
        (-1, 1, 0, 0, 0),
        (0, -1, 0, 0, 0),
        (0, 1, -1, 0, 0),
        (0, 1, 2, 0, 0),
        (0, 1, 0, -1, 0),
        (0, 1, 0, 99, 0),
        (5, 1, 0, 0, 0),
        (4, 2, 0, 0, 0),
        (0, 1, 0, 0, 1),
        (0, 1, 0, 0, -1),
    ],
)
def test_a_query_one_beyond_an_end_is_refused(line):
    rows, settings, table = packed()
    table[1] = (5, 0, 1, 0, 0)  # no rows at the very end
    assert len(rounds.unpack([rows, settings, table], SPEC)[1].x) == 0
    table[0] = line
    with pytest.raises(ProtocolError, match="outside"):
        rounds.unpack([rows, settings, table], SPEC)


@pytest.mark.parametrize("extra", [0, 1])
def test_a_round_has_so_many_queries_and_no_more(extra, monkeypatch):
    monkeypatch.setattr(rounds, "QUERIES", 2 - extra)
    if extra:
        with pytest.raises(ProtocolError, match="2 queries; at most 1"):
            rounds.unpack(packed(), SPEC)
    else:
        assert len(rounds.unpack(packed(), SPEC)) == 2


def test_the_whole_of_the_rows_is_one_tensor_and_parts_are_views():
    one = query(4)
    back = rounds.unpack(rounds.pack([one, one]), SPEC)
    assert back[0].x is back[1].x
    assert back[0].x.data_ptr() == one.x.data_ptr()
    assert back[0].theta is back[1].theta


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("rows", [2, 5000])  # few numbers, and many
@pytest.mark.parametrize("which", [0, 1])
def test_rows_and_settings_that_are_not_finite_are_refused(which, rows, wrong):
    arrays = [np.array(a) for a in rounds.pack([query(rows)])]
    rounds.unpack(arrays, SPEC)
    arrays[which][-1, -1] = wrong
    with pytest.raises(LimitError, match="finite"):
        rounds.unpack(arrays, SPEC)


def test_a_setting_outside_the_limits_is_refused_also_where_no_query_uses_it():
    def fn(x, theta):
        return x * theta

    spec = bp.devices.from_callable(fn, in_shape=6, out_shape=6, theta_size=6, low=0.0, high=1.0).declaration
    rows, settings, table = rounds.pack([Query(draw(2, 6), torch.full((6,), 0.5), Purpose.FORWARD)])
    twice = np.concatenate((table, table))
    rounds.unpack([rows, np.concatenate((settings, np.ones((1, 6), np.float32))), twice], spec)
    with pytest.raises(LimitError, match=r"theta\[0\] = 1.5"):
        rounds.unpack([rows, np.concatenate((settings, np.full((1, 6), 1.5, np.float32))), twice], spec)


def test_large_finite_rows_are_not_taken_for_infinite_ones():
    arrays = [np.array(a) for a in rounds.pack([query(5000)])]
    arrays[0][:] = 3e38
    rounds.unpack(arrays, SPEC)


# Readings.


@pytest.mark.parametrize("sizes", [(3,), (3, 2), (0, 2), (0,)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_readings_that_fit_travel_as_one_array(sizes, dtype):
    queries = [query(size, dtype=dtype) for size in sizes]
    readings = [draw(size, 4, seed=9 + i, dtype=dtype) for i, size in enumerate(sizes)]
    joined, arrays = rounds.pack_readings(readings, queries)
    assert joined
    assert len(arrays) == 1
    assert len(arrays[0]) == sum(sizes)
    for there, here in zip(rounds.unpack_readings(joined, arrays, queries), readings, strict=True):
        assert torch.equal(there, here)
        assert there.dtype == dtype


class Answers(bp.devices.LightModulator):
    """A device that answers what it was given, right or wrong."""

    def __init__(self, readings) -> None:
        super().__init__(6, 4)
        self.readings = readings

    def measure(self, queries, /):
        return self.readings


@pytest.mark.parametrize(
    "wrong",
    [
        [draw(2, 4), draw(2, 4)],  # a row short
        [draw(2, 4), draw(3, 5)],
        [draw(2, 4), draw(3, 4, dtype=torch.float64)],
        [draw(2, 4)],
        [draw(2, 4), draw(3, 4), draw(1, 4)],
        [draw(2, 4), torch.tensor(1.0)],
    ],
)
def test_readings_that_do_not_fit_are_handed_over_for_the_client_to_judge(wrong):
    queries = [query(2), query(3)]
    joined, arrays = rounds.pack_readings(wrong, queries)
    assert not joined
    back = rounds.unpack_readings(joined, arrays, queries)
    assert [tuple(y.shape) for y in back] == [tuple(y.shape) for y in wrong]
    assert all(torch.equal(there, here) for there, here in zip(back, wrong, strict=True))
    with pytest.raises(ReadingError):
        run(ask(*queries), metered(Answers(back), Ledger()))


def test_too_many_readings_that_do_not_fit_are_refused():
    wrong = [draw(1, 5)] * (wire.ARRAYS + 1)
    with pytest.raises(ReadingError, match="do not fit together"):
        rounds.pack_readings(wrong, [query(2)])
    assert len(rounds.pack_readings(wrong[:-1], [query(2)])[1]) == wire.ARRAYS


@pytest.mark.parametrize("reading", [draw(2, 4).half(), draw(2, 4).to(torch.complex64), "dark", None])
def test_readings_that_cannot_travel_are_named(reading):
    with pytest.raises(ReadingError, match="travel as float32, float64 or int64"):
        rounds.pack_readings([reading], [query(2)])


@pytest.mark.parametrize("rows", [1, 3, 0])
def test_a_server_that_answers_other_rows_than_were_asked_is_not_believed(rows):
    """Of two queries of 2 and 3 rows, in one array."""
    for count in (4, 6):
        with pytest.raises(ReadingError, match="something else than 5 rows"):
            rounds.unpack_readings(True, [np.zeros((count, 4), np.float32)], [query(2), query(3)])
    with pytest.raises(ReadingError, match="something else than 2 rows"):
        rounds.unpack_readings(True, [np.zeros((rows, 4), np.float32)], [query(2)])
    for arrays in ([], [np.zeros((2, 4), np.float32)] * 2, [np.zeros((), np.float32)]):
        with pytest.raises(ReadingError):
            rounds.unpack_readings(True, arrays, [query(2)])


def test_readings_come_in_the_dtype_of_their_rows_and_strangers_as_they_are():
    """Rows in half precision travel as float32: so does the answer. One that came in another dtype is left to see."""
    queries = [query(2, dtype=torch.float16), query(2)]
    answers = [np.ones((2, 4), np.float32), np.ones((2, 4), np.float64), np.ones((1, 1), np.float32)]
    back = rounds.unpack_readings(False, answers, queries)
    assert [y.dtype for y in back] == [torch.float16, torch.float64, torch.float32]


@dataclass(frozen=True)
class Weigh(Capability):
    """Rows of one number each, and readings of two."""

    name: ClassVar[str] = "weigh"

    def row_shape(self, spec: bp.Declaration) -> tuple[int, ...]:
        del spec
        return (1,)

    def reading_shape(self, spec: bp.Declaration) -> tuple[int, ...]:
        del spec
        return (2,)

    def perform(self, device, x, /):
        del device
        return torch.cat([x, -x], 1)


def test_an_answer_is_as_large_as_the_readings_of_all_its_kinds():
    spec = replace(SPEC, capabilities=(Weigh(),))
    asked = Round.of([query(3), Query(torch.ones(5, 1), query().theta, Purpose.PARAMETER, Weigh)])
    assert rounds.answer_bytes(asked, spec) == 4 * (3 * 4 + 5 * 2) + rounds.ANSWER_HEADER_BYTES
    again = rounds.unpack(rounds.pack(asked), spec, rounds.names(asked))
    assert [q.capability for q in again] == [None, Weigh]


def test_a_capability_that_the_device_does_not_declare_is_refused():
    asked = Round.of([query(3), Query(torch.ones(5, 1), query().theta, Purpose.PARAMETER, Weigh)])
    with pytest.raises(ProtocolError, match="does not declare the capability 'weigh'"):
        rounds.unpack(rounds.pack(asked), SPEC, rounds.names(asked))


@pytest.mark.parametrize("place", [0, 3])
def test_a_single_number_among_the_rows_of_several_kinds_is_refused(place):
    asked = Round.of([query(3), Query(torch.ones(5, 1), query().theta, Purpose.PARAMETER, Weigh)])
    arrays = rounds.pack(asked)
    arrays[place] = np.array(1.0, np.float32)
    with pytest.raises(ShapeError, match="got a single number"):
        rounds.unpack(arrays, replace(SPEC, capabilities=(Weigh(),)), rounds.names(asked))


def test_no_more_queries_than_the_protocol_says_are_taken():
    rows, settings, _ = rounds.pack([query(1)])
    table = np.zeros((2**18 + 1, 5), np.int64)
    with pytest.raises(ProtocolError, match="262145 queries; at most 262144"):
        rounds.unpack([rows, settings, table], SPEC)
    rounds.unpack([rows, settings, table[1:]], SPEC)
