"""Trained weights written to pulsed cells: closed loop, counted, and again after drift."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
from torch import nn

import blackprop as bp
from blackprop.conversion import ByPulses
from blackprop.devices import PulsedCrossbar, cells
from blackprop.errors import ArgumentError, BlackpropWarning, BudgetExhausted, IncompatibleError

SAME = {"step_spread": 0.0, "high_spread": 0.0, "low_spread": 0.0, "asymmetry_spread": 0.0}


def linear(d_in: int = 20, d_out: int = 12) -> nn.Linear:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Linear(d_in, d_out)


def converted(cell: cells.Cell, gains: tuple[float, ...] = (1.0,), **kwargs: object) -> bp.PhysicalLayer:
    device = PulsedCrossbar(20, 12, cell, gains=gains, seed=1)
    return bp.PhysicalLayer.from_linear(linear(), device, **kwargs)


@pytest.mark.parametrize(
    "cell", [cells.ECRAM, cells.CAPACITOR, cells.SoftBounds(step=0.002, **SAME)], ids=["a", "b", "c"]
)
def test_weights_are_written_to_the_tolerance_and_counted(cell):
    layer, wanted = converted(cell), linear().weight.detach()
    assert layer.conversion.error < 0.02
    weight = layer.to_linear().weight.detach()
    assert float((weight - wanted).norm() / wanted.norm()) < 0.02
    assert layer.ledger.actions["pulse"] > 0
    assert (
        layer.ledger.total_rows
        == layer.ledger.rows[bp.core.Purpose.CALIBRATE] + layer.ledger.rows[bp.core.Purpose.EVALUATE]
    )


def test_steps_of_cells_that_differ_are_learnt_in_the_loop():
    """Four times less than one round of nominal steps leaves."""
    cell = cells.ConstantStep(step=0.004, step_spread=0.4, high=1.0, low=-1.0, high_spread=0.0, low_spread=0.0)
    looped = converted(cell)
    once = converted(cell, programmer=ByPulses(rounds=1, most=1000))
    assert looped.conversion.error < once.conversion.error / 4


def test_bounds_that_differ_lower_the_gain():
    cell = cells.SoftBounds(step=0.002, high_spread=0.3, low_spread=0.3)
    layer = converted(cell)
    narrow = float(linear().weight.detach().abs().max()) / (0.8 * 0.6)
    assert layer.conversion.gain > 1.3 * narrow
    assert layer.conversion.error < 0.1


def test_finer_tiles_hold_what_the_coarse_one_leaves():
    """At eight states: half a step alone, and a small part of it with a second and a third tile."""
    cell = cells.SoftBounds(step=0.15, noise=0.1, **SAME)
    one, two, three = (converted(cell, gains).conversion.error for gains in ((1.0,), (0.2, 1.0), (0.04, 0.2, 1.0)))
    assert two < one / 2
    assert three < two / 1.5


def test_a_trained_network_keeps_its_accuracy_loses_it_by_drift_and_gets_it_back_for_few_pulses():
    from blackprop.experiments import Digits

    data = Digits().data()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    for _ in range(150):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(data.x_train), data.y_train).backward()
        optimizer.step()

    def accuracy(network: nn.Module) -> float:
        with torch.no_grad():
            return float((network.eval()(data.x_test).argmax(1) == data.y_test).double().mean())

    cell = dataclasses.replace(cells.ECRAM, lifetime=3000.0, lifetime_spread=0.5, diffusion=0.002)
    trained = [copy.deepcopy(model[place]) for place in (0, 2)]
    for place, old in zip((0, 2), trained, strict=True):
        device = PulsedCrossbar(old.in_features, old.out_features, cell, seed=place)
        model[place] = bp.PhysicalLayer.from_linear(old, device)
    digital = accuracy(nn.Sequential(trained[0], nn.ReLU(), trained[1]))
    written, first = accuracy(model), bp.ledger(model).actions["pulse"]
    assert written > digital - 0.01
    for place in (0, 2):
        model[place].device.age(4000)
    drifted = accuracy(model)
    assert drifted < written - 0.05
    for place, old in zip((0, 2), trained, strict=True):
        model[place].approximate(old.weight)
    assert accuracy(model) > digital - 0.015
    assert bp.ledger(model).actions["pulse"] < 2 * first


def test_weights_that_have_not_moved_are_written_again_for_no_pulse():
    layer = converted(cells.CAPACITOR)
    before = layer.ledger.actions["pulse"]
    layer.approximate(linear().weight)
    assert layer.ledger.actions["pulse"] == before


def test_age_is_that_of_as_many_mini_batches():
    cell = cells.ConstantStep(lifetime=50.0, diffusion=0.01, reset=0.1, reset_spread=0.0, high=5, low=-5, **SAME)
    population = cell.draw((300, 300), torch.Generator())
    generator = torch.Generator().manual_seed(0)
    w = torch.full((300, 300), 0.5)
    once = cell.aged(w, population, generator, 40)
    for _ in range(40):
        w = cell.aged(w, population, generator)
    assert float(once.mean()) == pytest.approx(float(w.mean()), abs=1e-3)
    assert float(once.std()) == pytest.approx(float(w.std()), rel=0.02)
    with pytest.raises(ArgumentError, match="a whole number from 0, got -1"):
        PulsedCrossbar(2, 2).age(-1)


def test_what_cannot_be_written_is_refused_or_said():
    with pytest.raises(BudgetExhausted, match="of 50 pulse"):
        converted(cells.ECRAM, budget=bp.Budget(pulse=50))
    with pytest.warns(BlackpropWarning, match="reached the weights only within a relative error"):
        converted(cells.SoftBounds(step=0.01, stuck=0.6))
    with pytest.raises(ArgumentError, match=r"tolerance=...\)` must be positive, got 0"):
        ByPulses(tolerance=0.0)
    with pytest.raises(IncompatibleError, match="does not declare the capability `pulse`"):
        bp.PhysicalLayer.from_linear(linear(), bp.devices.Matrix(20, 12), programmer=ByPulses())
