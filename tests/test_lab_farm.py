"""A farm is one device: the same answers, the same training, an exact bill, whoever of its members is unwell."""

from __future__ import annotations

import math
import threading
import time

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import blackprop as bp
from blackprop import errors
from blackprop.core import Budget, Cost, Ledger, Purpose, Query, ask, metered, run
from blackprop.core._packing import unpack
from blackprop.devices import Wrapper
from blackprop.lab import Farm
from blackprop.lab.farm._shares import Piece, cut, joined, shares
from support import Opaque, backward, behind_a_linear, draw, make_layer

SLOW = Cost(programming=5e-3, row=1e-6)
FAST = Cost(programming=1e-6, row=1e-3)


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


class Ill(Wrapper):
    """Fails the rounds numbered in `at`, in the way given; says what it was asked."""

    def __init__(self, device, at=(), how=None):
        super().__init__(device)
        self.at, self.how, self.round = at, how or errors.UnreachableError("nobody answered"), 0
        self.threads = set()
        self.asked: list[list[Query]] = []

    def measure(self, queries):
        self.round += 1
        self.threads.add(threading.current_thread().name)
        self.asked.append(queries)
        readings = super().measure(queries)
        if self.round in self.at:
            if isinstance(self.how, Exception):
                raise self.how
            return [self.how(y) for y in readings]
        return readings


def opaque(cost=None, d_in=6, d_out=4):
    return Opaque(bp.devices.LightModulator(d_in, d_out, cost=cost))


def asked_of(*devices):
    """Rows and programmings that devices have really done."""
    return sum(len(x) for d in devices for x in d.rows), sum(len(d.written) for d in devices)


def round_of(count, rows=8, purpose=Purpose.PARAMETER, P=24):
    x = draw(rows, 6)
    return [Query(x, draw(P, seed=i), purpose) for i in range(count)]


def measured(device, queries, ledger=None):
    return run(ask(*queries), metered(device, ledger if ledger is not None else Ledger()))


def until_back(farm, queries, at):
    for _ in range(200):
        measured(farm, queries)
        if farm.members[at].in_service:
            return
        time.sleep(0.005)
    raise AssertionError(farm.members[at].reason)


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


def trained(device, steps=6):
    layer = make_layer(device)
    model = behind_a_linear(layer)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    losses = []
    for step in range(steps):
        optimizer.zero_grad()
        losses.append(float(backward(model, draw(16, 5, seed=step))))
        optimizer.step()
    return layer, losses


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
        clock.now = 1.0  # both are tried, and one is well: there is nobody else to wait for
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


# Members that differ.


class Amplified(Wrapper):
    def __init__(self, device, gain, offset=0.0):
        super().__init__(device)
        self.gain, self.offset = gain, offset

    def _sense(self, y, purpose):
        return self.gain * y + self.offset


def test_calibration_undoes_gains_and_offsets():
    gain = torch.tensor([0.7, 1.1, 1.4, 0.9])
    devices = [opaque(SLOW), Amplified(opaque(SLOW), gain, 0.3), Amplified(opaque(SLOW), 1 / gain)]
    queries = round_of(9)
    with Farm(devices) as farm:
        found = farm.calibrate(draw(6, 6), torch.stack([draw(24, seed=i) for i in range(4)]))
        assert found.taken_out == ()
        assert max(found.before) > 0.1
        assert max(found.after) < 1e-5
        assert found.ledger.rows == {Purpose.CALIBRATE: 3 * 4 * 6}
        assert found.ledger.programmings == {Purpose.CALIBRATE: 3 * 4}
        ledger = Ledger()
        readings = measured(farm, queries, ledger)
        assert set(ledger.rows) == {Purpose.PARAMETER}
    truth = measured(devices[found.reference], queries)
    for one, many in zip(truth, readings, strict=True):
        torch.testing.assert_close(one, many, rtol=1e-4, atol=1e-4)


def test_calibration_takes_out_who_disagrees_and_declares_what_is_left_as_noise():
    clock = Clock()

    def mesh(phase, seed):
        return bp.devices.ImperfectMZIMesh(6, 4, phase=phase, splitter=0.0, seed=seed)

    with Farm([mesh(1.5, 5), mesh(0.01, 1), mesh(0.01, 2), mesh(0.01, 3)], clock=clock) as farm:
        theta = torch.stack([farm.theta.draw(torch.Generator().manual_seed(i)) for i in range(6)])
        found = farm.calibrate(draw(6, 6), theta)
        assert found.taken_out == (0,)
        assert found.after[0] > 0.3
        assert 0 < max(found.after[1:]) < 0.05
        assert farm.noise == max(found.after[1:]) / math.sqrt(2)
        assert f"{found.after[0]:.2g}" in farm.members[0].reason
        clock.now = 1e6
        measured(farm, [Query(draw(2, 6), theta[0], Purpose.FORWARD)])
        assert farm.members[0].retry_in is None
        assert not farm.members[0].in_service
        state = farm.state_dict()
    with Farm([mesh(1.5, 5), mesh(0.01, 1), mesh(0.01, 2), mesh(0.01, 3)]) as farm:
        farm.load_state_dict(state)
        assert [h.in_service for h in farm.members] == [False, True, True, True]
        assert farm.calibrate(draw(6, 6), theta[:1].repeat(2, 1)).taken_out == (0,)


def test_calibration_is_refused_before_anything_is_asked_where_the_budget_ends():
    devices, budget = [opaque(SLOW), opaque(SLOW)], Budget(rows=20)
    with Farm(devices) as farm:
        with pytest.raises(errors.BudgetExhausted):
            farm.calibrate(draw(6, 6), torch.stack([draw(24, seed=i) for i in range(2)]), budget)
        assert asked_of(*devices) == (0, 0)
        with pytest.raises(errors.ArgumentError, match="two settings"):
            farm.calibrate(draw(6, 6), draw(1, 24))


def test_a_member_that_fails_while_it_is_calibrated_is_left_out():
    with Farm([opaque(SLOW), Ill(opaque(SLOW), {1}), opaque(SLOW)]) as farm:
        found = farm.calibrate(draw(6, 6), torch.stack([draw(24, seed=i) for i in range(2)]))
        assert found.taken_out == (1,)
        assert math.isnan(found.after[1])


class Settling(Opaque):
    def program(self, theta):
        time.sleep(0.01)
        super().program(theta)


def test_costs_that_nobody_declares_are_measured():
    devices = [Settling(bp.devices.LightModulator(6, 4)) for _ in range(2)]
    with Farm(devices) as farm:
        costs, ledger = farm.clock_members(draw(64, 6), torch.stack([draw(24, seed=i) for i in range(4)]))
        assert all(cost.programming > 9e-3 and cost.row < 1e-3 for cost in costs)
        assert (ledger.total_rows, ledger.total_programmings) == asked_of(*devices) == (2 * 68, 2 * 4)
        state = farm.state_dict()
    with Farm([Settling(bp.devices.LightModulator(6, 4)) for _ in range(2)]) as other:
        other.load_state_dict(state)
        assert other.state_dict()["costs"] == state["costs"]


# State, and its end.


def noisy(seed):
    return bp.devices.Noisy(bp.devices.LightModulator(6, 4, cost=SLOW), read=0.1, seed=seed)


def test_its_state_is_that_of_its_members():
    queries = round_of(4)
    with Farm([noisy(0), noisy(1)]) as farm:
        measured(farm, queries)
        state = farm.state_dict()
        wanted = measured(farm, queries)
    with Farm([noisy(5), noisy(6)]) as farm:
        assert not torch.equal(measured(farm, queries)[3], wanted[3])
        farm.load_state_dict(state)
        for one, many in zip(wanted, measured(farm, queries), strict=True):
            assert torch.equal(one, many)


def test_a_state_that_does_not_fit_changes_nothing():
    with Farm([noisy(0), noisy(1)]) as farm:
        measured(farm, round_of(4))
        before = farm.state_dict()
        generator = noisy(7).state_dict()
        broken = {**before, "members": [generator, {"device": {}}]}
        with pytest.raises(KeyError):
            farm.load_state_dict(broken)
        with pytest.raises(ValueError, match="1 members"):
            farm.load_state_dict({**before, **{k: v[:1] for k, v in before.items() if k != "noise"}})
        after = farm.state_dict()
    assert torch.equal(before["members"][0]["generator"], after["members"][0]["generator"])


def test_a_member_that_is_out_does_not_keep_a_checkpoint_from_being_made():
    with Farm([noisy(0), Ill(noisy(1), {1})], clock=Clock()) as farm:
        measured(farm, round_of(4))
        state = farm.state_dict()
    assert state["members"][1] is None
    with Farm([noisy(2), noisy(3)]) as farm:
        farm.load_state_dict(state)
        assert torch.equal(farm.state_dict()["members"][0]["generator"], state["members"][0]["generator"])


def test_a_layer_around_a_farm_is_saved_and_loaded():
    with Farm([noisy(0), noisy(1)]) as farm:
        layer, _ = trained(farm, steps=2)
        state = layer.state_dict()
    with Farm([noisy(3), noisy(4)]) as farm:
        other = make_layer(farm)
        other.load_state_dict(state)
        assert torch.equal(farm.state_dict()["members"][1]["generator"], noisy_state(state))


def noisy_state(state):
    return unpack(state["_extra_state"])["device"]["members"][1]["generator"]


class Closing(Opaque):
    closed = 0

    def close(self):
        self.closed += 1
        if self.theta.size == 24 and self.rows:
            raise OSError("the cable is cut")


def test_closing_closes_every_member_and_tells_of_those_that_could_not_be():
    devices = [Closing(bp.devices.LightModulator(6, 4)) for _ in range(2)]
    farm = Farm(devices)
    measured(farm, round_of(1))
    with pytest.raises(errors.DeviceError, match=r"1 of .* could not be closed.*the cable is cut"):
        farm.close()
    farm.close()
    assert [device.closed for device in devices] == [1, 1]
    with pytest.raises(errors.DeviceError, match="is closed"):
        measured(farm, round_of(1))


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
