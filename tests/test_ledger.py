"""Counting, lab time, budgets."""

from __future__ import annotations

import pytest
import torch

import blackprop as bp
from blackprop.core import Purpose
from blackprop.errors import ArgumentError, BudgetExhausted
from support import draw


def _device(**cost: float) -> bp.Device:
    return bp.devices.LightModulator(6, 4, cost=bp.Cost(**cost))


def _step(layer: bp.PhysicalLayer, optimizer: torch.optim.Optimizer, rows: int = 5) -> None:
    optimizer.zero_grad()
    x = draw(rows, 6).requires_grad_()
    layer(x).square().sum().backward()
    optimizer.step()


def test_lab_time_is_rows_and_programmings_at_the_devices_cost():
    layer = bp.PhysicalLayer(_device(programming=2.0, row=0.5), *bp.presets.paper(rank=2, samples=3))
    _step(layer, torch.optim.SGD(layer.parameters(), lr=0.1))
    ledger = bp.ledger(layer)
    assert ledger.lab_seconds == 2.0 * ledger.total_programmings + 0.5 * ledger.total_rows
    assert ledger.rows[Purpose.FORWARD] == 5
    assert "parameter" in repr(ledger)
    assert "estimated lab time" in repr(ledger)


def test_layers_are_summed_and_each_counted_once():
    device = _device(row=1.0)
    one, two = (bp.PhysicalLayer(device, *bp.presets.paper(rank=2)) for _ in range(2))
    model = torch.nn.ModuleList([one, two, one])
    one(draw(3, 6))
    two(draw(2, 6))
    total = bp.ledger(model)
    assert total.rows[Purpose.FORWARD] == 5
    assert total.lab_seconds == 5.0
    # One device under two settings in turn is programmed each time.
    one(draw(3, 6))
    assert bp.ledger(model).programmings[Purpose.FORWARD] == 3


def test_a_ledger_survives_its_state():
    layer = bp.PhysicalLayer(_device(row=1.0))
    layer(draw(3, 6))
    copy = bp.Ledger()
    copy.load_state_dict(layer.ledger.state_dict())
    assert copy == layer.ledger
    assert copy != bp.Ledger()


@pytest.mark.parametrize("limit", [{"rows": 40}, {"programmings": 9}, {"seconds": 30.0}, {"joules": 60.0}])
def test_an_exhausted_budget_raises_before_the_query_and_leaves_the_model_usable(limit):
    budget = bp.Budget(**limit)
    device = _device(programming=2.0, row=0.5, energy=bp.EnergyCost(row=1.0, power=2.0))
    layer = bp.PhysicalLayer(device, *bp.presets.paper(rank=2, samples=3), budget=budget)
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.1)
    before = layer.theta.detach().clone()
    with pytest.raises(BudgetExhausted, match="the round was not measured"):
        for _ in range(100):
            before = layer.theta.detach().clone()
            state = {k: v.clone() for k, v in layer.surrogate.state_dict().items()}
            _step(layer, optimizer)
    torch.testing.assert_close(layer.theta.detach(), before, rtol=0, atol=0)
    spent = {
        "rows": layer.ledger.total_rows,
        "programmings": layer.ledger.total_programmings,
        **layer.ledger.costs,
    }
    assert spent == pytest.approx(budget.spent)
    for name, most in limit.items():
        assert spent[name] <= most
    layer.budget = None
    _step(layer, optimizer)  # usable, and the surrogate goes on from where it stood
    assert state.keys() == layer.surrogate.state_dict().keys()


def test_one_budget_is_shared_by_the_layers_that_hold_it():
    budget = bp.Budget(rows=8)
    layers = [bp.PhysicalLayer(_device(), *bp.presets.paper(rank=2), budget=budget) for _ in range(2)]
    layers[0](draw(5, 6))
    with pytest.raises(BudgetExhausted, match="5 of 8 rows are spent and the next round of queries wants 5"):
        layers[1](draw(5, 6))
    layers[1](draw(3, 6))


@pytest.mark.parametrize("wrong", [{"rows": -1}, {"seconds": float("nan")}])
def test_a_budget_is_not_negative(wrong):
    with pytest.raises(ArgumentError, match="must not be negative"):
        bp.Budget(**wrong)


def test_a_cost_is_not_negative():
    with pytest.raises(ArgumentError, match="not negative"):
        bp.Cost(row=-1.0)


@pytest.mark.parametrize(
    ("seconds", "told"),
    [(0.25, "0.25 s"), (59.0, "59 s"), (60.0, "1.0 min"), (3599.0, "60.0 min"), (3600.0, "1.0 h"), (9000.0, "2.5 h")],
)
def test_lab_time_is_told_in_the_largest_unit_that_it_fills(seconds, told):
    ledger = bp.Ledger()
    ledger.costs["seconds"] = seconds
    assert f"estimated lab time {told}" in repr(ledger)
