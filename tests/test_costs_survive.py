"""Every field of `Cost`, and the rows that a row takes, reach the client, the recording, the farm and every wrapper."""

from __future__ import annotations

from dataclasses import fields

import pytest
import torch

import blackprop as bp
from blackprop.characterisation._clock import Clock
from blackprop.characterisation._conclusion import _cost
from blackprop.core import Ledger, Purpose, Query, metered
from blackprop.lab import Checked, Farm, Faulty, Guarded, Recorded, RemoteDevice, Replayed, Retrying
from serving import served
from support import Opaque, draw

ENERGY = bp.EnergyCost(0.5, 0.25, {"powers": 0.125}, dac=0.5, adc=0.25, power=2.0)
COST = bp.Cost(programming=0.25, row=0.5, actions={"powers": 2.0, "kicks": 0.125}, energy=ENERGY)


def dear() -> bp.Device:
    return bp.devices.LightModulator(6, 4, cost=COST)


def signed() -> bp.Device:
    return bp.devices.Differential(dear())


def test_no_field_of_a_cost_is_left_at_its_default():
    """The tests below are of all fields only as long as this holds."""
    for field in fields(bp.Cost):
        assert getattr(COST, field.name) != getattr(bp.Cost(), field.name), field.name
    for field in fields(bp.EnergyCost):
        assert getattr(ENERGY, field.name) != getattr(bp.EnergyCost(), field.name), field.name


@pytest.mark.parametrize(
    "wrap",
    [
        Guarded,
        Checked,
        Retrying,
        Faulty,
        Opaque,
        bp.devices.Declared,
        bp.devices.Differential,
        bp.devices.Noisy,
        bp.devices.Quantised,
        bp.devices.Drifting,
        lambda device: Farm([device]),
        lambda device: Guarded(Retrying(Checked(device))),
    ],
)
def test_a_cost_survives_wrappers_and_farms_whole(wrap):
    assert wrap(dear()).cost == COST


@pytest.mark.parametrize("make", [dear, signed])
def test_a_cost_and_the_rows_of_a_row_survive_a_recording(make, tmp_path):
    with Recorded(make(), tmp_path / "file") as device:
        assert (device.cost, device.rows_each) == (COST, make().rows_each)
    replayed = Replayed(tmp_path / "file")
    assert (replayed.cost, replayed.rows_each) == (COST, make().rows_each)


@pytest.mark.parametrize("make", [dear, signed])
def test_a_cost_and_the_rows_of_a_row_survive_the_wire(make, keys):
    with served(make, keys) as server, RemoteDevice(server.address, keys=keys) as device:
        assert (device.cost, device.rows_each) == (COST, make().rows_each)


@pytest.mark.parametrize("make", [dear, signed])
def test_the_dearest_member_prices_a_farm(make):
    members = [make(), make()]
    members[1].cost = bp.Cost(programming=1.0, row=0.125, actions={"kicks": 3.0})
    farm = Farm(members)
    assert farm.cost == bp.Cost(programming=1.0, row=0.5, actions={"powers": 2.0, "kicks": 3.0})
    assert farm.rows_each == make().rows_each
    again = Farm([make(), make()])
    again.load_state_dict(farm.state_dict())
    assert again.state_dict()["costs"] == farm.state_dict()["costs"]


def test_members_that_send_unlike_numbers_of_rows_are_refused():
    with pytest.raises(bp.errors.ArgumentError, match="rows_each of device 0 is 1, of device 1 2"):
        Farm([dear(), signed()])


def asked() -> list[Query]:
    return [Query(draw(5, 6, seed=k), draw(24, seed=k), Purpose.FORWARD) for k in range(2)]


def booked(device: bp.Device) -> tuple[Ledger, Ledger]:
    """The price of a round beforehand, and the ledger after it."""
    ledger = Ledger()
    price = bp.price(lambda: bp.core.ask(*asked()), device)
    bp.core.run(bp.core.ask(*asked()), metered(device, ledger))
    return price, ledger


def test_rows_of_either_sign_cost_the_same_here_and_served(keys, tmp_path):
    local = booked(signed())
    assert local[0].total_rows == local[1].total_rows == 20
    with served(signed, keys) as server, RemoteDevice(server.address, keys=keys) as device:
        assert booked(device) == local
    assert booked(Farm([signed(), signed()]))[1].total_rows == 20
    with Recorded(signed(), tmp_path / "file") as device:
        device.measure(asked())
    replayed, ledger = Replayed(tmp_path / "file"), Ledger()
    metered(replayed, ledger)(asked())
    assert ledger == local[1]


def test_a_budget_of_a_served_device_ends_where_that_of_the_device_does(keys):
    budget = bp.Budget(rows=10)  # one query of the two
    with served(signed, keys) as server, RemoteDevice(server.address, keys=keys) as device:
        measure = metered(device, Ledger(), budget)
        measure(asked()[:1])
        with pytest.raises(bp.errors.BudgetExhausted):
            measure(asked()[1:])


def test_a_farm_that_was_clocked_keeps_the_price_of_actions():
    farm = Farm([dear()])
    costs, _ = farm.clock_members(draw(8, 6), torch.stack([draw(24, seed=k) for k in range(3)]))
    assert [cost.actions for cost in costs] == [COST.actions]


def test_a_characterised_device_keeps_the_price_of_actions():
    clock = Clock(dear())
    for k in range(1, 20):
        clock.measure(
            [Query(draw(k % 4 + 1, 6, seed=k), draw(24, seed=k + i), Purpose.CALIBRATE) for i in range(1 + k % 3)]
        )
    cost = clock.cost()
    assert cost is not None
    assert cost.actions == COST.actions
    assert eval(_cost(COST).removeprefix("cost="), {"bp": bp}) == COST  # the line of code that is printed
