"""Joules travel the way of seconds: from a declaration through ledgers, budgets, plans, records and the wire."""

from __future__ import annotations

import io
import json
from dataclasses import replace

import pytest
import torch
from rich.console import Console

import blackprop as bp
from blackprop.core import Count, Ledger, Purpose, Query, ask, metered, run
from blackprop.errors import ArgumentError, BudgetExhausted, IncompatibleError
from blackprop.experiments.engine._bill import Bill
from blackprop.experiments.report._table import price_table, results_table
from blackprop.lab.remote.shared._spec_codec import describe, understand

ENERGY = bp.EnergyCost(programming=3.0, row=0.5, dac=0.01, adc=0.1, power=2.0)
COST = bp.Cost(programming=2.0, row=0.25, energy=ENERGY)


def modulator(cost: bp.Cost = COST) -> bp.Device:
    return bp.devices.LightModulator(6, 4, cost=cost)  # P = 24


def count(rows: int = 0, programmings: int = 0, **actions: int) -> Count:
    spent = Count()
    spent.rows[Purpose.FORWARD], spent.programmings[Purpose.FORWARD] = rows, programmings
    spent.actions.update(actions)
    return spent


def test_the_joules_of_a_round_are_those_of_its_rows_settings_converters_and_time():
    ledger, x = Ledger(), torch.rand(5, 6)
    run(ask(Query(x, torch.zeros(24), Purpose.FORWARD), Query(x, torch.ones(24), Purpose.FORWARD)),
        metered(modulator(), ledger))  # fmt: skip
    actions = 10 * 0.5 + 2 * 3.0
    converters = 10 * (6 * 0.01 + 4 * 0.1) + 2 * 24 * 0.01
    assert ledger.joules == pytest.approx(actions + converters + 2.0 * (10 * 0.25 + 2 * 2.0))
    assert ledger.lab_seconds == 6.5
    assert "estimated energy 29.1 J" in repr(ledger)


def test_pulses_and_rows_read_back_have_rates_and_converters_of_their_own():
    spec = modulator().declaration
    back = replace(spec, capabilities=(bp.core.ReadBack(),))
    # A row read backwards enters at the 4 outputs and leaves at the 6 inputs; it is a row in the count as well.
    spent = count(rows=5, programmings=1, read_back=3)
    joules = 5 * 0.5 + 3.0 + 24 * 0.01 + 2 * (6 * 0.01 + 4 * 0.1) + 3 * (4 * 0.01 + 6 * 0.1) + 2.0 * (5 * 0.25 + 2.0)
    assert back.joules(spent) == pytest.approx(joules)
    dearer = replace(back, cost=replace(COST, energy=replace(ENERGY, actions={"read_back": 7.0})))
    assert dearer.joules(spent) == pytest.approx(joules + 3 * (7.0 - 0.5))
    pulsed = bp.devices.PulsedCrossbar(
        4, 3, bp.devices.cells.IDEALIZED, cost=bp.Cost(energy=bp.EnergyCost(pulse=1e-12))
    )
    assert pulsed.declaration.joules(count(pulse=1000)) == pytest.approx(1e-9)


def test_what_is_not_declared_is_unknown_and_not_nothing():
    silent = modulator(bp.Cost(row=1.0))
    ledger = Ledger()
    assert ledger.joules == 0.0
    run(ask(Query(torch.rand(5, 6), torch.zeros(24), Purpose.FORWARD)), metered(silent, ledger))
    assert ledger.joules is None
    known = Ledger()
    known.add(count(5, 1), {"seconds": 1.0, "joules": 4.0})
    assert Ledger.sum([known, known]).joules == 8.0
    assert Ledger.sum([known, ledger]).joules is None
    assert known.times(3).joules == 12.0
    assert ledger.times(3).joules is None
    with pytest.raises(IncompatibleError, match="declares none"):
        bp.planning.joules(ledger)


def test_a_budget_of_joules_ends_training_and_refuses_devices_that_declare_none():
    layer = bp.PhysicalLayer(modulator(), budget=bp.Budget(joules=1000.0))
    with pytest.raises(BudgetExhausted, match="joules"):
        for _ in range(100):
            layer(torch.rand(8, 6)).sum().backward()
            layer.theta.data -= 0.1 * torch.sign(layer.theta.grad)
    assert layer.budget.spent["joules"] == pytest.approx(layer.ledger.joules)
    assert 100 < layer.ledger.joules <= 1000
    silent = modulator(bp.Cost(row=1.0))
    with pytest.raises(IncompatibleError, match="joules"):
        bp.PhysicalLayer(silent, budget=bp.Budget(joules=1.0))(torch.rand(2, 6))
    for budget in (bp.Budget(joules=1.0), {"joules": 1.0}):
        with pytest.raises(IncompatibleError, match="LightModulator"):
            bp.plan(silent, batch_size=8, budget=budget)


def test_a_plan_fits_its_joules_and_ranks_by_them():
    device = modulator()
    best = bp.plan(device, batch_size=8, steps=10)
    assert bp.planning.joules(best.price.first) == best.price.first.joules
    first = best.price.after(10).joules
    assert f"{first:,.4g}"[:3] in str(best)
    tight = bp.plan(device, batch_size=8, steps=10, budget={"joules": 0.9 * first})
    assert tight.name != best.name
    assert tight.price.after(10).joules <= 0.9 * first
    with pytest.raises(BudgetExhausted, match="joules"):
        bp.plan(device, batch_size=8, budget={"joules": 1e-3})


def test_the_price_in_joules_is_what_training_takes():
    device = modulator()
    plan = bp.plan(device, batch_size=8)
    layer = bp.PhysicalLayer(device, *plan.method)
    layer(torch.rand(8, 6, requires_grad=True)).sum().backward()
    assert layer.ledger.joules == pytest.approx(plan.price.first.joules)


def test_states_of_older_versions_are_read_and_newer_ones_keep_the_joules():
    ledger = Ledger()
    ledger.add(count(5, 1), {"seconds": 1.0, "joules": 4.0})
    other = Ledger()
    other.load_state_dict(json.loads(json.dumps(ledger.state_dict())))
    assert other == ledger
    assert other.joules == 4.0
    other.load_state_dict({"rows": {"forward": 5}, "programmings": {}, "lab_seconds": 2.0})
    assert (other.lab_seconds, other.joules) == (2.0, None)
    other.load_state_dict({"rows": {}, "programmings": {}, "lab_seconds": 0.0})
    assert other.joules == 0.0
    budget = bp.Budget(joules=10.0)
    budget.load_state_dict({"spent": {"rows": 3, "programmings": 1, "seconds": 0.5}})
    assert budget.spent["joules"] == 0.0
    budget.spend(count(1), {"joules": 4.0})
    again = bp.Budget(joules=10.0)
    again.load_state_dict(budget.state_dict())
    assert again.spent["joules"] == 4.0


def test_a_declaration_keeps_its_energy_on_the_wire_and_an_older_server_sends_none():
    fields, arrays = describe(modulator().declaration)
    assert understand(fields, arrays, torch.rand).cost == COST
    del fields["energy"]
    assert understand(fields, arrays, torch.rand).cost == replace(COST, energy=None)


def test_a_recording_keeps_the_energy(tmp_path):
    with bp.lab.Recorded(modulator(), tmp_path / "session") as device:
        run(ask(Query(torch.rand(2, 6), torch.zeros(24), Purpose.FORWARD)), metered(device, Ledger()))
    assert bp.lab.Replayed(tmp_path / "session").cost == COST


def test_a_chain_has_the_energies_of_its_parts_and_the_time_of_the_slowest():
    other = bp.Cost(programming=1.0, row=4.0, energy=bp.EnergyCost(row=1.0, dac=0.5, power=3.0))
    chain = bp.devices.Chain(modulator(), bp.devices.LightModulator(4, 2, cost=other))
    row = (0.5 + 6 * 0.01 + 4 * 0.1 + 2.0 * 4.0) + (1.0 + 4 * 0.5 + 3.0 * 4.0)  # each part works as long as the slowest
    setting = (3.0 + 24 * 0.01 + 2.0 * 2.0) + (8 * 0.5 + 3.0 * 2.0)
    assert chain.declaration.joules(count(1)) == pytest.approx(row)
    assert chain.declaration.joules(count(0, 1)) == pytest.approx(setting)
    assert bp.devices.Chain(modulator(), bp.devices.LightModulator(4, 2)).cost.energy is None


def test_the_dearest_of_several_costs_knows_energy_only_where_all_do():
    other = bp.Cost(row=9.0, energy=bp.EnergyCost(row=0.1, power=5.0))
    dearest = bp.Cost.dearest([COST, other])
    assert (dearest.programming, dearest.row) == (2.0, 9.0)
    assert dearest.energy == bp.EnergyCost(programming=3.0, row=0.5, dac=0.01, adc=0.1, power=5.0)
    assert bp.Cost.dearest([COST, bp.Cost(row=1.0)]).energy is None


def test_tables_show_the_energy_where_there_is_one():
    ledger = Ledger()
    ledger.add(count(80, 10), {"seconds": 90.0, "joules": 0.0042})
    silent = Ledger()
    silent.add(count(80, 10), {"seconds": 90.0, "joules": None})
    bills = {
        ("chip", "ours"): Bill.of([(ledger, True)], 10).plain(),
        ("chip", "b"): Bill.of([(silent, True)], 10).plain(),
    }
    assert "joules" not in bills["chip", "b"]
    shown = _shown(price_table("price", bills))
    assert "energy" in shown
    assert "4.2 mJ" in shown
    result = {"device": "chip", "method": "ours", "accuracy": 0.5, "gap_closed": None, **bills["chip", "ours"]}
    assert "4.2 mJ" in _shown(results_table({"task": "digits", "results": [result]}))
    del result["joules"]
    assert "energy" not in _shown(results_table({"task": "digits", "results": [result]}))


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (lambda: bp.EnergyCost(row=-1.0), "joules and watts"),
        (lambda: bp.EnergyCost(power=float("nan")), "joules and watts"),
        (lambda: bp.EnergyCost(pulse=-1.0), "joules and watts"),
        (lambda: bp.Cost(row=-1.0), "seconds"),
        (lambda: bp.Cost(energy=bp.EnergyCost(power=1.0)), "seconds of a programming"),
        (lambda: bp.Budget(joules=-1.0), "joules"),
    ],
    ids=["row", "power", "pulse", "seconds", "timeless", "budget"],
)
def test_impossible_costs_are_refused(wrong, words):
    with pytest.raises(ArgumentError, match=words):
        wrong()


def test_published_costs_follow_from_their_sources():
    core = bp.devices.costs.phase_change_core(512, 128, programming=1.0, programming_energy=2.0)
    assert core.energy.row == pytest.approx(2 * 512 * 128 / 9.76e12)
    assert core.row == pytest.approx(133e-9, rel=1e-2)
    assert (core.programming, core.energy.programming) == (1.0, 2.0)
    # The energy of a second of the whole chip is its power, throughput over efficiency.
    whole = bp.devices.costs.phase_change_core(256, 256, programming=0.0, programming_energy=0.0)
    assert 64 * whole.energy.row / whole.row == pytest.approx(63.1 / 9.76)
    heated = bp.devices.costs.thermo_optic_chip(100, programming=1e-4, row=1e-6, dac=1e-12, adc=2e-12)
    assert heated.energy == bp.EnergyCost(dac=1e-12, adc=2e-12, power=2.477)
    device = bp.devices.ScatteringMedium(8, 4, cost=bp.devices.costs.scattering_processor(programming=0.5, row=0.001))
    assert device.declaration.joules(count(rows=1000)) == pytest.approx(30.0)


def _shown(table) -> str:
    console = Console(width=200, file=io.StringIO())
    console.print(table)
    return console.file.getvalue()
