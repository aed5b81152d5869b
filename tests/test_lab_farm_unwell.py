"""Members of a farm that fail: the others serve their share, and they are taken back when they are well."""

from __future__ import annotations

import math
import time

import pytest
import torch

from blackprop import errors
from blackprop.core import Ledger, Purpose
from blackprop.lab import Farm
from farms import SLOW, Clock, Ill, asked_of, measured, opaque, round_of, until_back

# The unwell.


def ruined(y):
    return torch.where(torch.arange(len(y))[:, None] == 1, math.nan, y)


@pytest.mark.parametrize(
    ("how", "told"),
    [
        (errors.DeviceError("it is off"), "it is off"),
        (errors.ReadingError("garbage"), "garbage"),
        (ConnectionResetError("gone"), "gone"),
        (ruined, "not finite"),
        (lambda y: y[:-1], "returned shape"),
    ],
)
def test_the_share_of_a_failing_member_is_served_by_the_others(how, told):
    devices = [opaque(SLOW) for _ in range(3)]
    ill = Ill(devices[0], at={1}, how=how)
    queries, ledger = round_of(6), Ledger()
    with Farm([ill, *devices[1:]], clock=Clock()) as farm:
        readings = measured(farm, queries, ledger)
        health = farm.members
    for one, many in zip(measured(opaque(), queries), readings, strict=True):
        assert torch.equal(one, many)
    assert [h.in_service for h in health] == [False, True, True]
    assert told in health[0].reason
    assert health[0].faults == 1
    assert health[0].retry_in == 1.0
    assert (ledger.total_rows, ledger.total_programmings) == asked_of(*devices) == (8 * 8, 8)


def test_an_unwell_member_is_tried_again_later_and_later_and_taken_back_when_it_answers_as_before():
    clock, queries, ledger = Clock(), round_of(4), Ledger()
    ill = Ill(opaque(SLOW), at={2, 3, 4})
    inner = ill.device
    with Farm([ill, opaque(SLOW)], clock=clock) as farm:
        for _ in range(3):
            measured(farm, queries, ledger)
        assert ill.round == 2  # out, and its time has not come
        waits = []
        for round_ in (3, 4):
            waits.append(farm.members[0].retry_in)
            clock.now += waits[-1]
            deadline = time.monotonic() + 5
            while farm.members[0].faults < round_ - 1 and time.monotonic() < deadline:
                measured(farm, queries, ledger)
        waits.append(farm.members[0].retry_in)
        assert waits == [1.0, 2.0, 4.0]
        clock.now += 4.0
        until_back(farm, queries, 0)
        assert farm.members[0].faults == 3
        (trial,) = ill.asked[4]
        assert trial.purpose is Purpose.CALIBRATE
        farm.close()
        spent = asked_of(inner)
        assert farm.members[0].rows == spent[0]
        assert farm.members[0].programmings == spent[1]


def test_one_that_answers_otherwise_than_before_stays_out():
    clock, queries = Clock(), round_of(4)
    inner = opaque(SLOW)
    ill = Ill(inner, at={2})
    with Farm([ill, opaque(SLOW)], clock=clock) as farm:
        measured(farm, queries)
        measured(farm, queries)
        ill.at, ill.how = {3}, lambda y: 1.2 * y
        clock.now = 1.0
        deadline = time.monotonic() + 5
        while farm.members[0].faults < 2 and time.monotonic() < deadline:
            measured(farm, queries)
        assert not farm.members[0].in_service
        assert "differs by 0.2 (" in farm.members[0].reason


def test_the_last_one_failing_raises_with_all_reasons_and_the_bill_is_exact():
    devices, ledger, clock = [opaque(SLOW), opaque(SLOW)], Ledger(), Clock()
    ills = [Ill(devices[0], {1}, errors.DeviceError("smoke")), Ill(devices[1], {1, 2}, OSError("no cable"))]
    with Farm(ills, clock=clock) as farm:
        with pytest.raises(errors.DeviceError, match=r"smoke.*no cable"):
            measured(farm, round_of(4), ledger)
        with pytest.raises(errors.DeviceError, match="no member"):
            measured(farm, round_of(4), ledger)
        assert (ledger.total_rows, ledger.total_programmings) == asked_of(*devices)
        clock.now = 1.0  # both are tried, and one is well: no other member has to be waited for
        measured(farm, round_of(4), ledger)
        assert [h.in_service for h in farm.members] == [True, False]
    assert (ledger.total_rows, ledger.total_programmings) == asked_of(*devices)


def test_an_error_that_is_no_fault_of_a_device_is_raised_as_it_is():
    with Farm([opaque(SLOW), Ill(opaque(SLOW), {1}, TypeError("a bug"))]) as farm:
        with pytest.raises(TypeError, match="a bug"):
            measured(farm, round_of(4))
        assert all(h.in_service for h in farm.members)
        measured(farm, round_of(4))


def test_one_that_was_switched_off_is_written_anew():
    clock, queries = Clock(), round_of(1)
    inner = opaque(SLOW)
    with Farm([Ill(inner, {2})], clock=clock) as farm:
        measured(farm, queries)
        with pytest.raises(errors.DeviceError):
            measured(farm, queries)
        inner.inner.program(torch.zeros(24))  # as it comes up
        clock.now = 1.0
        (y,) = measured(farm, queries)
        assert torch.equal(y, measured(opaque(), queries)[0])
        inner.inner.program(torch.zeros(24))
        farm.forget()
        (y,) = measured(farm, queries)
        assert torch.equal(y, measured(opaque(), queries)[0])
