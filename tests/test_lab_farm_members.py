"""Members of a farm that differ: their calibration, their costs, their states, and their end."""

from __future__ import annotations

import math
import time

import pytest
import torch

import blackprop as bp
from blackprop import errors
from blackprop.core import Budget, Ledger, Purpose, Query
from blackprop.core._packing import unpack
from blackprop.devices import Wrapper
from blackprop.lab import Farm
from farms import SLOW, Clock, Ill, asked_of, measured, opaque, round_of, trained
from support import Opaque, draw, make_layer

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
