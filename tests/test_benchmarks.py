"""The benchmark of accuracy against queries: what is chosen for a method, and the chart of what was run."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
import torch

import blackprop as bp
from blackprop.core import Purpose
from blackprop.experiments import Hardware, Imperfections

pytest.importorskip("matplotlib")
BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def benchmarks(monkeypatch):
    """The two files as the command line imports them."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import chart
    import queries

    yield chart, queries
    for name in ("chart", "queries"):
        sys.modules.pop(name)


def test_rate_and_rank_are_chosen_on_the_trial_seeds_and_run_on_all(benchmarks):
    _, queries = benchmarks
    asked = []

    def run(setting, seed):
        """Best at rate 1e-2 and rank 50 on seed 0; on the others every choice would be another."""
        asked.append((setting.rate, setting.rank, seed))
        good = (setting.rate == 1e-2) + 0.1 * (setting.rank == 50)
        return {"accuracy": good if seed == 0 else -good}

    found, runs = queries.choose((3e-3, 1e-2, 3e-2), (10, 50, 100), run, [0], [0, 1, 2])
    assert (found.rate, found.rank, str(found)) == (1e-2, 50, "0.01, rank 50")
    assert [result["accuracy"] for result in runs] == pytest.approx([1.1, -1.1, -1.1])
    trials, finals = asked[:-3], asked[-3:]
    assert trials == [(rate, 10, 0) for rate in (3e-3, 1e-2, 3e-2)] + [(1e-2, rank, 0) for rank in (10, 50, 100)]
    assert finals == [(1e-2, 50, seed) for seed in range(3)]

    asked.clear()
    found, _ = queries.choose((3e-3, 1e-2), None, run, [0, 1, 2], [0, 1, 2])
    assert found == queries.Setting(3e-3)  # the mean over all three seeds, and not the first


def test_a_method_with_one_setting_is_not_searched(benchmarks):
    asked = []
    benchmarks[1].choose((1e-2,), None, lambda *what: asked.append(what) or {"accuracy": 0.0}, [0], [0, 1])
    assert len(asked) == 2


def write(folder, method, accuracies, rows, setting="0.01", device="microring", condition="clean"):
    for seed, accuracy in enumerate(accuracies):
        path = folder / condition / device / method / setting / str(seed)
        path.mkdir(parents=True)
        result = {"accuracy": accuracy, "row_overhead": rows, "programming_overhead": 2 * rows}
        (path / "summary.json").write_text(json.dumps({"results": [result]}))


def test_the_chart_shows_every_method_of_every_place(benchmarks, tmp_path):
    chart, _ = benchmarks
    runs, file = tmp_path / "runs", tmp_path / "chart.svg"
    write(runs, "oracle", [0.9, 0.92], 0.0)
    write(runs, "frozen", [0.4, 0.41], 0.0)
    write(runs, "default", [0.9, 0.88], 0.12)
    write(runs, "paper-10", [0.6], 6.2, "0.01-rank-10")  # searched, and not chosen
    write(runs, "paper-10", [0.7, 0.72], 6.4, "0.01-rank-50")
    write(runs, "oracle", [0.8], 0.0, device="matrix", condition="noisy")
    write(runs, "row", [0.7], 0.9, device="matrix", condition="noisy")
    (runs / "clean/microring/row/0.01/0").mkdir(parents=True)
    (runs / "clean/microring/row/0.01/0/summary.json").write_text('{"results": []}')  # at work
    marks = {mark.method: mark for mark in chart.read(runs)["microring", "clean"]}
    assert marks["paper-10"].accuracy == pytest.approx(71.0)
    assert marks["paper-10"].error == pytest.approx(1.0)
    assert marks["paper-10"].overheads == pytest.approx({"row_overhead": 6.4, "programming_overhead": 12.8})
    chart.draw(runs, file)
    texts = ["".join(node.itertext()).strip() for node in ET.parse(file).iter("{http://www.w3.org/2000/svg}text")]
    assert {"microring, clean", "matrix, noisy"} < set(texts)
    assert texts.count("paper-10 71.0") == texts.count("oracle 91.0") == texts.count("row 70.0") == 2  # a panel each
    drawn = file.read_bytes()
    chart.draw(runs, file)
    assert file.read_bytes() == drawn


def test_no_runs_no_chart(benchmarks, tmp_path):
    with pytest.raises(SystemExit, match="holds no run"):
        benchmarks[0].draw(tmp_path, tmp_path / "chart.svg")


def test_coarse_settings_have_a_range_on_every_device(benchmarks):
    coarse = benchmarks[1].CONDITIONS["coarse"]
    for hardware in Hardware:
        assert isinstance(coarse.wrap(hardware.make(12, 12), seed=0), bp.devices.Quantised)


def test_the_settings_of_a_matrix_are_rounded_over_four_times_its_initial_ones():
    device = Imperfections(theta_bits=6).wrap(bp.devices.Matrix(16, 4), seed=0)
    theta = 2 * torch.rand(64, generator=torch.Generator().manual_seed(0)) - 1  # to 4 times the initial 1/4

    def written(theta):
        (y,) = device.measure([bp.Query(torch.eye(16), theta, Purpose.FORWARD)])
        return y.mT.flatten()

    assert float((written(theta) - theta).abs().max()) < 0.6 * 1 / 31
    assert len(written(theta).unique()) > 30
    assert float(written(10 * theta).abs().max()) == pytest.approx(1, rel=0.05)


def test_the_table_of_experiments_has_means_standard_errors_and_the_run_with_most_seeds(benchmarks, tmp_path):
    import experiments

    def summary(folder, method, losses, gaps):
        results = [
            {"device": "microring", "method": method, "seed": seed, "validation_loss": loss, "gap_closed": gap}
            | {"row_overhead": 0.5, "programming_overhead": 4.0}
            for seed, (loss, gap) in enumerate(zip(losses, gaps, strict=True))
        ]
        (tmp_path / folder).mkdir()
        content = {"task": "text", "metric": "validation_loss", "results": results}
        (tmp_path / folder / "summary.json").write_text(json.dumps(content))
        return tmp_path / folder

    few, many = summary("few", "row", [3.0], [0.1]), summary("many", "row", [2.0, 2.2], [0.8, 1.0])
    (row,) = experiments.read([few, many])
    assert str(row) == "| text | microring | row | 2 | 2.100 ± 0.100 nats | 0.900 ± 0.100 | 0.5 | 4 |"
    experiments.draw([row], tmp_path / "chart.svg")
    texts = ["".join(n.itertext()) for n in ET.parse(tmp_path / "chart.svg").iter("{http://www.w3.org/2000/svg}text")]
    assert {"oracle", "frozen", "row", "text, microring"} <= set(texts)
    sys.modules.pop("experiments")
