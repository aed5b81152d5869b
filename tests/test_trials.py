"""One engine: a trial has the same result alone and in every comparison, within an allowance or not."""

from __future__ import annotations

import ast
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import blackprop
from blackprop import errors, experiments
from blackprop.experiments import (
    Allowance,
    AllowanceGrid,
    Default,
    Digits,
    Existing,
    FrozenReference,
    Grid,
    Hardware,
    OracleReference,
    Perturbative,
    Trial,
    compare,
    compare_within,
    report,
    reservoirs,
    train,
)
from blackprop.experiments.comparison._within import stored
from blackprop.experiments.engine._allowance import count_devices
from blackprop.experiments.records._run_folder import RunFolder
from blackprop.experiments.reservoirs._readout import Refitted
from blackprop.experiments.tasks._task import Size
from echo import spent
from trials import Quiet

TASK = Digits(epochs=2, batch_size=128)
KIND = Hardware.LIGHT_MODULATOR
HALF = Allowance.of_batches(TASK, 11)  # of its 22 steps
SOURCE = Path(blackprop.__file__).parent


def test_a_trial_alone_has_the_result_that_it_has_in_a_grid(tmp_path):
    (in_grid,) = compare(Grid(TASK, (Default(),), (KIND,)), tmp_path / "run")["results"]
    assert train(Trial(TASK, Default(), KIND)) == in_grid
    assert in_grid["steps"] == in_grid["planned_steps"] == 22
    assert in_grid["allowance"] is None


def test_a_trial_within_an_allowance_has_the_same_result_in_every_comparison(tmp_path):
    alone = train(Trial(TASK, Perturbative(), KIND, allowance=HALF))
    (in_grid,) = compare(Grid(TASK, (Perturbative(),), (KIND,), allowance=HALF), tmp_path / "run")["results"]
    (within,) = compare_within(AllowanceGrid(TASK, (Perturbative(),), (KIND,), (11,)), tmp_path / "store")
    assert alone == in_grid == {name: within[name] for name in alone}
    assert alone["allowance"] == {"rows": 11 * 128 * 2, "programmings": 22}
    assert spent(alone, "rows") <= HALF.rows
    assert spent(alone, "programmings") <= HALF.programmings
    assert 0 < alone["steps"] < alone["planned_steps"]


def test_its_rates_fall_with_the_share_that_is_spent(tmp_path):
    """At half the cosine the rate is half the task's; the last step is at rest."""
    seen = []

    class Rates(Quiet):
        def evaluated(self, line):
            seen.append(line["rates"])

    train(Trial(TASK, OracleReference(), KIND, allowance=HALF), callback=Rates())
    (last,) = seen
    assert 0 < last["theta"] < 0.03 * TASK.device_lr
    assert 0 < last["digital"] < 0.03 * TASK.lr


def test_a_finished_trial_within_an_allowance_is_resumed_without_a_step(tmp_path):
    grid = Grid(TASK, (OracleReference(),), (KIND,), allowance=HALF)
    whole = compare(grid, tmp_path / "run")
    folder = RunFolder(tmp_path / "run")
    folder.save_summary({**folder.summary(), "results": []})  # killed before it was told
    assert compare(grid, tmp_path / "run", Quiet(interrupt_at=1), Existing.RESUME) == whole


def test_an_allowance_that_does_not_reach_for_one_step_is_an_error():
    with pytest.raises(errors.BudgetExhausted):
        train(Trial(TASK, OracleReference(), KIND, allowance=Allowance(100)))


def test_the_devices_of_a_task_are_counted_without_any():
    assert count_devices(TASK) == 2
    assert count_devices(reservoirs.suite(Size.SMALL)[0]) == 1


def test_a_readout_is_refitted_only_where_there_is_one():
    with pytest.raises(errors.IncompatibleError, match="does not have a linear readout"):
        train(Trial(TASK, Refitted(FrozenReference()), KIND, allowance=Allowance(10_000)))


def test_rates_of_a_search_go_to_the_parameters_that_are_searched(tmp_path):
    grid = AllowanceGrid(
        TASK, (OracleReference(), FrozenReference()), (KIND,), (5,), rates=(1e-3, 1e-1), searched=("device_lr",)
    )
    assert grid.rates_of(FrozenReference()) == (TASK.device_lr,)
    trial = grid.trial(OracleReference(), KIND, 5, 1e-1, 0)
    assert (trial.task.lr, trial.task.device_lr) == (TASK.lr, 1e-1)
    found = compare_within(grid, tmp_path)
    assert [result["method"] for result in found] == ["oracle", "frozen"]
    tried = {line["rate"]: line["accuracy"] for line in stored(tmp_path) if line["method"] == "oracle"}
    assert found[0]["accuracy"] == max(tried.values())
    assert len(set(tried.values())) == 2


# Versions.


@pytest.fixture
def of_an_earlier_version(tmp_path):
    compare(Grid(replace(TASK, epochs=1), (FrozenReference(),), (KIND,)), tmp_path / "run")
    config = tmp_path / "run" / "config.json"
    config.write_text(config.read_text().replace("blackprop run 3", "blackprop run 2"))
    return tmp_path / "run"


def test_a_run_of_an_earlier_version_is_not_resumed_but_read_by_the_report(of_an_earlier_version, tmp_path):
    grid = Grid(replace(TASK, epochs=1), (FrozenReference(),), (KIND,))
    with pytest.raises(errors.RunFolderError, match="only runs of the format 'blackprop run 3'"):
        compare(grid, of_an_earlier_version, existing=Existing.RESUME)
    page = report.write_report([of_an_earlier_version], tmp_path / "page.html").read_text()
    assert "frozen" in page
    compare(grid, of_an_earlier_version, existing=Existing.OVERWRITE)
    assert json.loads((of_an_earlier_version / "config.json").read_text())["format"] == "blackprop run 3"


def test_a_run_of_a_later_version_is_refused_by_the_report(of_an_earlier_version, tmp_path):
    config = of_an_earlier_version / "config.json"
    config.write_text(config.read_text().replace("blackprop run 2", "blackprop run 99"))
    with pytest.raises(errors.RunFolderError, match="format 'blackprop run 99', which this version cannot read"):
        report.write_report([of_an_earlier_version], tmp_path / "page.html")


# Names.


def test_no_class_of_experiments_has_the_name_of_another():
    found: dict[str, list[str]] = {}
    for path in [*SOURCE.rglob("*.py")]:
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef):
                found.setdefault(node.name, []).append(str(path.relative_to(SOURCE)))
    twice = {
        name: paths
        for name, paths in found.items()
        if len(paths) > 1 and any(path.startswith(("experiments", "cli")) for path in paths)
    }
    assert twice == {}


def test_the_public_names_are_few_and_documented():
    lists = [module.__all__ for module in (experiments, reservoirs, report)]
    assert sum(map(len, lists)) <= 35
    for module, names in zip((experiments, reservoirs, report), lists, strict=True):
        assert names == sorted(names, key=lambda name: (not name[0].isupper(), name))
        for name in names:
            assert getattr(module, name).__doc__, name


def test_the_global_generator_is_left_alone():
    before = torch.get_rng_state()
    train(Trial(replace(TASK, epochs=1), OracleReference(), KIND))
    assert torch.equal(before, torch.get_rng_state())
