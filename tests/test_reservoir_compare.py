"""The comparison of methods around reservoirs: equal rows, nothing run twice, a table of what was found."""

from __future__ import annotations

import json

import pytest

from blackprop import cli, errors
from blackprop.recipes import Frozen, Oracle
from blackprop.recipes.reservoir import (
    Homodyne,
    Narma10,
    ParityCheck,
    Perturbative,
    Readout,
    ReservoirGrid,
    Reservoirs,
    carry_out_reservoirs,
)

TASKS = (Narma10(nodes=20, length=60, washout=20), ParityCheck(nodes=20, length=60, washout=20))
METHODS = (Oracle(), Frozen(), Readout(), Perturbative(), Homodyne())
GRID = ReservoirGrid(TASKS, METHODS, (Reservoirs.ECHO_STATE,), (40,))


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder, told = tmp_path_factory.mktemp("run"), []
    return carry_out_reservoirs(GRID, folder, told.append), told, folder


def test_no_method_asks_more_than_is_allowed_and_all_are_told(results):
    found, told, _ = results
    assert found == told
    assert len(found) == len(TASKS) * len(METHODS)
    rows = {result["method"]: result["rows"] for result in found if "rows" in result}
    assert 0 < max(rows.values()) <= 40 * TASKS[0].batch_size
    narma = {result["method"]: result for result in found if result["task"] == "narma10"}
    assert narma["ridge"]["nrmse"] < 0.9  # 1 is worth the mean of the targets
    assert narma["ridge"]["programmings"] == 1
    assert "nrmse" not in narma["homodyne"]  # four passes a parameter are beyond it
    assert "budget" in narma["homodyne"]["refused"] or "rows" in narma["homodyne"]["refused"]


def test_what_is_finished_is_not_run_again_and_a_cut_line_is(results):
    found, _, folder = results
    file = folder / "results.jsonl"
    whole = file.read_text()
    lines = whole.splitlines(keepends=True)
    file.write_text("".join(lines[:-1]) + lines[-1][:20])
    told: list[dict] = []
    again = carry_out_reservoirs(GRID, folder, told.append)
    assert [result["method"] for result in told] == ["homodyne"]
    assert [{**r, "seconds": 0} for r in again] == [{**r, "seconds": 0} for r in found]


@pytest.mark.parametrize("hardware", Reservoirs)
def test_every_reservoir_takes_the_shapes_of_a_task(hardware):
    device = hardware.make((30, 2), (30, 6), 0)
    assert (device.in_shape, device.out_shape) == ((30, 2), (30, 6))


@pytest.mark.parametrize("given", [{"tasks": ()}, {"methods": ()}, {"batches": (0,)}])
def test_a_comparison_of_nothing_is_refused(given):
    parts = {"tasks": TASKS, "methods": METHODS, "hardware": (Reservoirs.ECHO_STATE,), "batches": (1,), **given}
    with pytest.raises(errors.ArgumentError, match=next(iter(given))):
        ReservoirGrid(**parts)


def test_the_command_prints_a_table_and_names_its_tasks(tmp_path, capsys):
    options = ["--tasks", "parity", "--methods", "ridge", "frozen", "--batches", "30", "60", "--run-dir", str(tmp_path)]
    assert cli.main(["compare", "reservoir", *options]) == 0
    out = capsys.readouterr().out
    assert "30 batches" in out
    assert "capacity" in out
    scores = {json.loads(line)["capacity"] for line in (tmp_path / "results.jsonl").read_text().splitlines()}
    assert all(f"{score:.3f}" in out for score in scores)
    assert cli.main(["compare", "reservoir", "--tasks", "chess", "--run-dir", str(tmp_path)]) == 2
    assert "narma10" in capsys.readouterr().err
