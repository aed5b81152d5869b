"""A farm is one device: the same answers, the same training, an exact bill."""

from __future__ import annotations

import math
import threading

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import blackprop as bp
from blackprop import errors
from blackprop.core import Cost, Ledger, Purpose, Query
from blackprop.lab import Farm
from blackprop.lab.farm._shares import Piece, cut, joined, shares
from farms import FAST, SLOW, Clock, Ill, asked_of, measured, opaque, round_of, trained
from support import draw

# The same answers.


@pytest.mark.parametrize("cost", [None, SLOW, FAST], ids=["undeclared", "slow to set", "slow to read"])
@pytest.mark.parametrize("count", [1, 3, 17])
def test_a_round_is_answered_as_by_one_device(cost, count):
    queries = [*round_of(count), *round_of(2, rows=0), Query(draw(5, 6), draw(24, seed=0), Purpose.FORWARD)]
    with Farm([opaque(cost) for _ in range(4)]) as farm:
        for one, many in zip(measured(opaque(cost), queries), measured(farm, queries), strict=True):
            torch.testing.assert_close(many, one, rtol=1e-6, atol=1e-7)


def test_settings_are_shared_out_evenly_and_rows_stay_together_where_writing_is_dear():
    devices = [opaque(SLOW) for _ in range(4)]
    with Farm(devices) as farm:
        measured(farm, round_of(8))
    assert [len(device.written) for device in devices] == [2] * 4
    assert all(len(x) == 8 for device in devices for x in device.rows)


def test_rows_are_divided_where_writing_is_cheap():
    devices = [opaque(FAST) for _ in range(4)]
    with Farm(devices) as farm:
        measured(farm, round_of(1, rows=10))
    assert sorted(len(x) for device in devices for x in device.rows) == [2, 2, 3, 3]


def test_each_device_is_asked_in_one_thread_of_its_own():
    devices = [Ill(opaque(SLOW)) for _ in range(3)]
    with Farm(devices) as farm:
        for _ in range(3):
            measured(farm, round_of(6))
    assert all(len(device.threads) == 1 for device in devices)
    assert threading.current_thread().name not in set.union(*(device.threads for device in devices))


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_every_row_is_served_once_and_nobody_idles_while_another_has_two_settings(data):
    rows = data.draw(st.lists(st.integers(0, 9), min_size=1, max_size=12))
    kinds = data.draw(st.lists(st.integers(0, 3), min_size=len(rows), max_size=len(rows)))
    settings_ = [draw(3, seed=i) for i in range(4)]
    queries = [Query(draw(n, 2), settings_[k], Purpose.FORWARD) for n, k in zip(rows, kinds, strict=True)]
    cost = Cost(data.draw(st.sampled_from([0.0, 1.0, 5.0])), data.draw(st.sampled_from([0.0, 1.0])))
    costs = [cost] * data.draw(st.integers(1, 5))
    held = [data.draw(st.sampled_from([None, *settings_])) for _ in costs]
    pieces = [Piece(i, 0, n) for i, n in enumerate(rows)]
    found = shares(queries, pieces, costs, held)
    assert found == shares(queries, pieces, costs, held)
    answers = {p: cut(queries, [p], {})[0].x for share in found for p in share}
    assert len(answers) == sum(map(len, found))
    for query, y in zip(queries, joined(queries, answers), strict=True):
        assert torch.equal(query.x, y)
    if len(set(kinds)) == len(kinds) and held == [None] * len(costs):
        used = [len({p.index for p in share}) for share in found]
        assert not (0 in used and max(used) > 1)


def test_faster_members_are_given_more():
    devices = [opaque(SLOW), opaque(Cost(programming=20e-3))]
    with Farm(devices) as farm:
        measured(farm, round_of(10))
    assert [len(device.written) for device in devices] == [8, 2]


# Training.


def test_a_layer_trains_bit_identically_with_a_member_failing_in_the_middle():
    one, losses = trained(opaque(SLOW))
    devices = [opaque(SLOW) for _ in range(3)]
    with Farm([devices[0], Ill(devices[1], at={3}), devices[2]], clock=Clock()) as farm:
        many, same = trained(farm)
        assert not farm.members[1].in_service
        assert "nobody answered" in farm.members[1].reason
    assert losses == same
    assert torch.equal(one.theta, many.theta)
    assert (many.ledger.total_rows, many.ledger.total_programmings) == asked_of(*devices)
    assert many.ledger.total_rows > one.ledger.total_rows


def test_the_ledger_of_a_healthy_farm_is_that_of_one_device():
    one, _ = trained(opaque(SLOW))
    devices = [opaque(SLOW) for _ in range(3)]
    with Farm(devices) as farm:
        many, _ = trained(farm)
    assert many.ledger.rows == one.ledger.rows
    assert (many.ledger.total_rows, many.ledger.total_programmings) == asked_of(*devices)


def test_settings_written_to_several_members_for_one_query_are_booked():
    devices = [opaque(FAST) for _ in range(4)]
    ledger = Ledger()
    with Farm(devices) as farm:
        measured(farm, round_of(1), ledger)
    assert ledger.programmings == {Purpose.PARAMETER: 4}
    assert ledger.rows == {Purpose.PARAMETER: 8}


def test_the_contract_tests_pass():
    with Farm([bp.devices.LightModulator(5, 4, cost=FAST) for _ in range(3)]) as farm:
        bp.testing.check_device(farm)


# What is refused.


@pytest.mark.parametrize(
    ("devices", "told"),
    [
        ([], "one at least"),
        (["matrix"], "takes Devices"),
        ([bp.devices.Matrix(6, 4), bp.devices.Matrix(6, 5)], r"out_shape of device 0 is \(4,\), of device 1 \(5,\)"),
        ([bp.devices.Matrix(6, 4), bp.devices.LowRank(6, 4, rank=2)], "coupling"),
        ([bp.devices.Matrix(6, 4), opaque()], "coupling"),
        ([bp.devices.Matrix(6, 4), bp.devices.LightModulator(6, 4)], "theta.period"),
        ([bp.devices.Matrix(6, 4)] * 2, "each device once"),
    ],
)
def test_devices_that_are_not_alike_are_refused(devices, told):
    with pytest.raises(errors.ArgumentError, match=told):
        Farm(devices)


@pytest.mark.parametrize("wrong", [{"tolerance": 0}, {"tolerance": math.nan}, {"backoff": -1.0}])
def test_wrong_arguments_are_refused(wrong):
    with pytest.raises(errors.ArgumentError, match=next(iter(wrong))):
        Farm([opaque()], **wrong)
