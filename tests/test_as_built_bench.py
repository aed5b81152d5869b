"""The bench of devices as built: its devices, its evolution strategies, the choice of rates, and its page."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import blackprop as bp
from blackprop.planning import Family

pytest.importorskip("matplotlib")
FOLDER = Path(__file__).parents[1] / "benchmarks" / "as_built"
MODULES = ("bench", "built_devices", "built_page", "evolution", "inquiry")


@pytest.fixture
def modules(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    import bench
    import built_devices
    import built_page
    import evolution
    import inquiry

    yield SimpleNamespace(bench=bench, devices=built_devices, page=built_page, evolution=evolution, inquiry=inquiry)
    for name in MODULES:
        sys.modules.pop(name)


def result(family="modulator", method="default", told="declared", seed=0, accuracy=0.9, batches=220, rate=0.12):
    return {
        "device": f"{family}, as built, {told}",
        "method": method,
        "seed": seed,
        "accuracy": accuracy,
        "batches": batches,
        "rate": rate,
        "trial": {"settings": {"size": 64}},
    }


def test_a_device_that_is_told_nothing_keeps_its_range_alone(modules):
    for family in modules.devices.FAMILIES:
        for told in modules.devices.Told:
            kind = modules.devices.BuiltKind(family, True, told)
            if not kind.exists:
                continue
            device = kind.make(34, 8, seed=1)
            if told is not modules.devices.Told.ALL:
                assert device.capabilities == ()
                assert device.coupling is bp.Coupling.NONE
                assert device.drawing() is None
                assert device.linear is (told is modules.devices.Told.LINEAR)
    chip = modules.devices.BuiltKind("Mach-Zehnder mesh", True, modules.devices.Told.ALL).make(8, 8)
    assert bp.plan(chip, 64).name == "calibrated-chip"


@pytest.mark.parametrize("name", ["snes", "sep-cma"])
def test_evolution_finds_the_least_of_a_bowl_and_goes_on_from_its_state(modules, name: str):
    def searched() -> tuple[torch.nn.Linear, object]:
        torch.manual_seed(0)
        model = torch.nn.Linear(4, 2)
        method = modules.evolution.Evolution(0.3, name)
        return model, method.rule(model, torch.Generator().manual_seed(1))

    scales = torch.tensor([1.0, 3.0, 1.0, 3.0])

    def batch(model):
        return SimpleNamespace(loss=lambda: (scales * (model.weight - 1)).square().sum() + model.bias.square().sum())

    model, rule = searched()
    start = float(batch(model).loss().detach())
    losses = [rule.add_gradients(batch(model), lambda _: None) for _ in range(120)]
    assert float(batch(model).loss().detach()) < 1e-3 * start
    assert losses[-1] < 1e-2 * losses[0]
    other_model, other = searched()
    other.load_state_dict(rule.state_dict())
    for search, over in ((rule, model), (other, other_model)):
        search.add_gradients(batch(over), lambda _: None)
    assert torch.equal(model.weight, other_model.weight)


def test_rates_are_chosen_on_a_seed_that_is_not_reported(modules, monkeypatch, tmp_path):
    asked = []

    def compare(grid, folder, callback):
        del folder, callback
        rate = grid.rates[0] if len(grid.rates) == 1 else 0.12
        asked.append((grid.rates, grid.seeds))
        return [result(seed=seed, rate=rate) for seed in grid.seeds]

    monkeypatch.setattr(modules.bench, "compare_within", compare)
    kind = modules.devices.BuiltKind("modulator", True, modules.devices.Told.ALL)
    modules.bench.run(tmp_path, kind, "oracle", 1, 64, [0, 1])
    assert asked == [(modules.bench.RATES, (100,)), ((0.12,), (0, 1))]
    asked.clear()
    modules.bench.run(tmp_path, kind, "default", 1, 64, [0, 1])
    assert asked == [((modules.bench.RATE,), (0, 1))]


def test_the_page_shows_means_and_gaps_without_the_seed_of_the_choice(modules, tmp_path):
    results = [
        result(method="oracle", seed=0, accuracy=1.0, rate=0.24),
        result(method="oracle", seed=0, accuracy=0.7, rate=0.06),  # worse on the seed of the choice
        result(method="oracle", seed=100, accuracy=0.9, rate=0.24),
        result(method="oracle", seed=100, accuracy=0.8, rate=0.06),
        result(method="frozen", seed=0, accuracy=0.2),
        result(seed=0, accuracy=0.9),
        result(seed=1, accuracy=0.94),
        result(seed=100, accuracy=0.1),
        result(told="nothing declared", seed=0, accuracy=0.6),
    ]
    file = tmp_path / "page.md"
    file.write_text(f"before\n{modules.page.BEGIN}\nold\n{modules.page.END}\nafter")
    modules.page.write(results, file)
    text = file.read_text()
    assert "old" not in text
    assert text.startswith("before")
    assert text.endswith("after")
    assert "| modulator | 100.0* | 20.0* | 92.0 ± 2.0 | 60.0* | 0.90 | 0.50 |" in text
    chart = tmp_path / "chart.svg"
    modules.page.draw(results, chart)
    assert "nothing declared" in chart.read_text()


def test_drawn_devices_are_told_rightly_and_deceivers_never_surely(modules):
    """A sample of what the benchmark counts."""
    kinds = [*modules.inquiry.KINDS, *modules.inquiry.DECEIVERS]
    right = 0
    for number, kind in enumerate(kinds):
        case = modules.inquiry.drawn(kind, number + 500)
        found, _ = modules.inquiry.told(case)
        assert isinstance(found.family, Family)
        right += found.family in case.right
        assert found.family in case.right or not found.sure, (kind, case.about, found)
    assert right >= len(kinds) - 2
