"""The bench of the field's methods: what is compared, what is kept, and what is told of those that cannot serve."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from blackprop import errors
from blackprop.experiments import Allowance, Data, Digits, Hardware, Trial, train
from blackprop.experiments.comparison import _within
from echo import spent

BENCHMARKS = Path(__file__).parents[1] / "benchmarks" / "field"
TASK = Digits(epochs=1)
NAMES = ["oracle", "frozen", "row", "local-learning", "memory"]
RATES = [2e-3, 6e-2]


@pytest.fixture
def bench(monkeypatch):
    """The file as the command line imports it, and those beside it."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import bench

    yield bench
    for name in ("bench", "bench_table", "bench_chart", "local_method"):
        sys.modules.pop(name, None)


def carried_out(bench, folder, kind=Hardware.LIGHT_MODULATOR, seeds=2, names=("oracle", "frozen", "local-learning")):
    methods = [method for method in bench.METHODS if method.name in names]
    return bench.run(folder, TASK, methods, [kind], [1], RATES, seeds)


def accuracies(results, method):
    return [result["accuracy"] for result in results if result["method"] == method]


def test_every_method_learns_within_the_same_allowance_and_what_is_finished_is_not_run_again(
    bench, tmp_path, monkeypatch
):
    results = carried_out(bench, tmp_path)
    oracle, frozen, local = (accuracies(results, name) for name in ("oracle", "frozen", "local-learning"))
    assert len(oracle) == len(frozen) == len(local) == 2
    assert min(oracle) > 0.7
    assert max(frozen) < 0.4
    assert min(local) > 0.7  # its matrices learn, for the devices stay as they were drawn
    assert all(spent(r, "rows") <= 22 * 64 * 2 and spent(r, "programmings") <= 22 * 2 for r in results)
    (rate,) = {result["rate"] for result in results if result["method"] == "oracle"}
    assert rate == 6e-2  # one epoch leaves the slower one behind
    lines = (tmp_path / "results.jsonl").read_text().splitlines()
    assert len(lines) == 3 + 2 + 3  # two rates on the first seed where θ or a matrix moves, the better one on the other

    (tmp_path / "results.jsonl").write_text("\n".join([*lines, '{"task": "dig']))  # killed while it wrote
    monkeypatch.setattr(_within, "train", lambda *what: pytest.fail("run again"))
    assert carried_out(bench, tmp_path) == results
    assert bench.chosen(bench.with_factors([json.loads(line) for line in lines])) == results


def test_a_method_that_cannot_serve_a_device_is_a_dash_with_its_reason(bench, tmp_path):
    results = carried_out(bench, tmp_path, Hardware.SCATTERING_MEDIUM, 1, ("oracle", "row", "twin"))
    twice = [*results, *({**r, "device": "crossbar"} for r in results if r["method"] == "twin")]
    text = bench.table(twice, [method.name for method in bench.METHODS], [kind.value for kind in bench.DEVICES])
    (score,) = [r for r in results if r["method"] == "oracle" and r["rate"] == results[0]["rate"]]
    assert f"| oracle |  | {100 * score['accuracy']:.1f}* |" in text
    assert "| row |  | – |" in text
    assert "| twin | – | – |" in text
    assert "- row, scattering-medium (digits): `RandomDirections(credit=ByOutput(outputs=64))` needs" in text
    assert text.count("there is no physical twin") == 1


def test_a_calibration_beyond_the_allowance_is_refused_with_what_is_spent(bench, tmp_path):
    (result,) = carried_out(bench, tmp_path, seeds=2, names=("twin",))
    assert "of 44 programmings are spent" in result["refused"]


def test_local_learning_learns_behind_a_device_whose_answers_are_twenty_times_its_rows(bench, tmp_path):
    (result,) = carried_out(bench, tmp_path, Hardware.MICRORING, 1, ("local-learning",))
    assert result["accuracy"] > 0.7  # 0.1 to 0.7 where they are not levelled, in ten times the steps


def test_without_its_readings_local_learning_is_the_same_on_every_device_and_asks_as_much(bench, tmp_path):
    kinds = (Hardware.MICRORING, Hardware.LIGHT_MODULATOR)
    some, others = (carried_out(bench, tmp_path, kind, 1, ("local-no-device",)) for kind in kinds)
    reading = carried_out(bench, tmp_path, kinds[0], 1, ("local-learning",))
    assert accuracies(some, "local-no-device") == accuracies(others, "local-no-device")
    assert accuracies(some, "local-no-device") != accuracies(reading, "local-learning")
    assert spent(some[0], "rows") == spent(others[0], "rows") == spent(reading[0], "rows")


def test_local_learning_refuses_rows_that_do_not_go_into_its_first_device(bench):
    data = TASK.data()
    wide = Data(data.x_train.repeat(1, 2), data.y_train, data.x_test.repeat(1, 2), data.y_test)
    trial = Trial(TASK, bench.LocalLearning(), Hardware.LIGHT_MODULATOR, allowance=Allowance(10_000))
    with pytest.raises(errors.IncompatibleError, match="writes the label into the rows of digits"):
        train(trial, wide)


def test_the_chart_has_a_panel_a_device_and_a_name_a_method(bench, tmp_path):
    pytest.importorskip("matplotlib")
    import bench_chart

    def result(device, method, seed, accuracy, factor=1):
        scored = {"refused": "no"} if accuracy is None else {"accuracy": accuracy}
        return {"task": "digits", "device": device, "method": method, "factor": factor, "seed": seed} | scored

    some = [result(d, m, s, 0.9) for d in ("microring", "crossbar") for m in NAMES for s in (0, 1)]
    some += [result("crossbar", "twin", 0, None), result("crossbar", "row", 0, 0.95, factor=10)]
    methods, kinds = [m.name for m in bench.METHODS], [k.value for k in bench.DEVICES]
    bench_chart.draw(some, methods, kinds, tmp_path / "chart.svg")
    texts = ["".join(n.itertext()) for n in ET.parse(tmp_path / "chart.svg").iter("{http://www.w3.org/2000/svg}text")]
    assert {"digits, microring", "digits, crossbar", "allowance ×1", "allowance ×10", "oracle", "frozen"} <= set(texts)
    assert texts.count("row") == texts.count("twin") == 1
