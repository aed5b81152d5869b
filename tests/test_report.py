"""Reports: the figures are right, and they fit."""

from __future__ import annotations

import io
import re
import warnings

import pytest
from rich.console import Console

from blackprop.errors import NoisyGradientWarning
from blackprop.experiments import Digits, Hardware, Paper, Trial, price
from blackprop.experiments.report._progress import Progress, step_line
from blackprop.experiments.report._table import duration, price_table, results_table
from blackprop.experiments.report._tensorboard import TensorBoardCallback
from blackprop.experiments.report._time_left import TimeLeft


def result(method, device, seed, accuracy, gap=None, lab=90.0):
    return {
        "method": method,
        "device": device,
        "seed": seed,
        "accuracy": accuracy,
        "gap_closed": gap,
        "rows": {"forward": 1000, "parameter": 59_600},
        "programmings": {"forward": 10, "parameter": 1000},
        "row_overhead": 59.6,
        "programming_overhead": 100.0,
        "seconds": 1.5,
        "lab_seconds": lab,
    }


def cells(line):
    return re.split(r"\s{2,}", line.strip())


def drawn(renderable, width=100):
    console = Console(file=io.StringIO(), width=width)
    console.print(renderable)
    return console.file.getvalue().splitlines()  # pyright: ignore[reportAttributeAccessIssue]


def test_a_row_shows_the_mean_and_its_standard_error_over_the_seeds():
    seeds = [result("paper", "microring", s, a, g) for s, (a, g) in enumerate([(0.9, 0.5), (0.92, 0.6), (0.94, 0.7)])]
    lines = drawn(results_table({"task": "digits", "network": "physical", "results": seeds}))
    (row,) = [line for line in lines if "paper" in line]
    assert cells(row) == ["microring", "paper", "3", "92.0 ± 1.2", "0.60", "59.6", "100", "1.5 min"]
    assert "digits physical" in lines[0]


def test_devices_keep_together_in_their_order_and_a_missing_gap_is_blank():
    mixed = [("z", "oracle"), ("a", "oracle"), ("z", "paper"), ("a", "paper")]
    lines = drawn(results_table({"task": "digits", "results": [result(m, d, 0, 0.5) for d, m in mixed]}))
    rows = [cells(line) for line in lines if "50.0" in line]
    assert [row[:-5] for row in rows] == [["z", "oracle"], ["paper"], ["a", "oracle"], ["paper"]]
    assert all(row[-4:] == ["50.0", "59.6", "100", "1.5 min"] for row in rows)


def test_the_table_of_no_results_is_a_table():
    assert drawn(results_table({"task": "digits", "network": "hybrid", "results": []}))


def test_the_longest_names_fit_into_100_columns():
    long = [result("paper-rank-100", device.value, s, 1.0, -0.25, 1e6) for device in Hardware for s in (0, 1)]
    lines = drawn(results_table({"task": "digits", "network": "physical", "results": long}))
    assert max(map(len, lines)) <= 100
    assert not any("…" in line for line in lines)
    assert any("three-splitter-mesh" in line and "100.0 ± 0.0" in line for line in lines)


def test_a_price_table_shows_every_purpose_that_is_asked():
    task = Digits(epochs=1, batch_size=718)
    bill = price(Trial(task, Paper(samples=2), Hardware.LIGHT_MODULATOR), task.data()).plain()
    text = "\n".join(drawn(price_table("title", {("light-modulator", "paper"): bill})))
    for word in ("light-modulator", "forward", "parameter", "surrogate", "evaluate", "total", "overhead"):
        assert word in text
    assert "calibrate" not in text
    assert f"{sum(bill['rows'].values()):,}" in text


@pytest.mark.parametrize(("seconds", "text"), [(0, "0 s"), (12.345, "12.3 s"), (90, "1.5 min"), (7200, "2.0 h")])
def test_durations(seconds, text):
    assert duration(seconds) == text


STEP = {"method": "paper", "device": "microring", "seed": 0, "step": 99, "steps": 440, "loss": 0.5}
COST = {"scores": {"accuracy": 0.75}, "rows": 123_456, "programmings": 789}


def test_a_terminal_shows_a_live_line():
    console = Console(file=io.StringIO(), force_terminal=True, width=120)
    with Progress(console) as progress:
        progress.step({**STEP, **COST})
    text = console.file.getvalue()  # pyright: ignore[reportAttributeAccessIssue]
    for part in ("step 99/440", "loss 0.500", "accuracy 75.0%", "123,456 rows", "789 programmings"):
        assert part in text


def test_elsewhere_only_results_are_told_one_plain_line_each():
    console = Console(file=io.StringIO(), width=40)
    with Progress(console) as progress:
        progress.step({**STEP, **COST})
        progress.finished(result("paper", "microring", 2, 0.9))
    text = console.file.getvalue()  # pyright: ignore[reportAttributeAccessIssue]
    assert text == "paper  microring  seed 2  accuracy 90.0%  60,600 rows  1,010 programmings\n"


def test_a_comparison_tells_which_run_is_at_work_and_how_long_the_others_will_take():
    now, cells = 0.0, [{"method": m, "device": "microring", "seed": s} for s in range(3) for m in ("frozen", "paper")]
    clock = TimeLeft([*cells, {**cells[0], "device": "matrix"}], cells[:1], lambda: now)
    assert clock.place() == "run 2 of 7  "

    def train(cell, step):
        clock.step({**cell, "step": step, "steps": 100})

    train(cells[1], 0)
    assert clock.left() == ""
    now = 10.0
    train(cells[1], 10)
    assert clock.left() == ""  # frozen has not been timed
    now = 100.0
    clock.finished(cells[1])
    assert clock.place() == "run 3 of 7  "
    train(cells[2], 0)
    now = 104.0
    train(cells[2], 20)  # frozen: 20 s a run, 16 s left; two more of paper at 100 s, two more of frozen
    assert clock.left().strip() == "about 4.3 min left"
    now = 110.0
    clock.finished(cells[2])  # of frozen: 10 s
    assert clock.left().strip() == "about 3.7 min left"
    for cell in (*cells[3:], {**cells[0], "device": "matrix"}):
        clock.finished(cell)
    assert clock.left() == ""
    assert TimeLeft(cells[:1]).place() == ""


def test_a_line_of_a_comparison_begins_with_its_place():
    console = Console(file=io.StringIO(), width=40)
    with Progress(console, [{**STEP, "seed": seed} for seed in (0, 2)]) as progress:
        progress.finished(result("paper", "microring", 0, 0.9))
        progress.finished(result("paper", "microring", 2, 0.9))
    first, second = console.file.getvalue().splitlines()  # pyright: ignore[reportAttributeAccessIssue]
    assert first.startswith("run 1 of 2  paper  microring  seed 0")
    assert "left" in first
    assert second.startswith("run 2 of 2  paper  microring  seed 2")
    assert "left" not in second


def test_the_libraries_warnings_are_plain_lines_that_name_the_run():
    console = Console(file=io.StringIO(), width=40)
    with Progress(console) as progress:
        progress.step({**STEP, **COST})
        for _ in range(2):
            warnings.warn("the gradient is noise", NoisyGradientWarning, stacklevel=1)
    text = console.file.getvalue()  # pyright: ignore[reportAttributeAccessIssue]
    assert text == "warning: paper  microring  seed 0: the gradient is noise\n" * 2
    with pytest.raises(NoisyGradientWarning):  # as it was before
        warnings.warn("the gradient is noise", NoisyGradientWarning, stacklevel=1)


def test_the_progress_line_tells_how_the_gradient_is_where_that_is_known():
    assert "accuracy 75.0%  cos 0.31  snr 0.1  123,456 rows" in step_line({**STEP, **COST, "cosine": 0.31, "snr": 0.1})
    assert "accuracy 75.0%  snr 0  123,456 rows" in step_line({**STEP, **COST, "cosine": None, "snr": 0.0})


def test_the_board_keeps_every_number_of_a_line_by_its_step(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    board = TensorBoardCallback(tmp_path)
    line = {"method": "paper", "device": "microring", "seed": 2, "loss": 0.5, "gap_closed": None}
    for step in (10, 20):
        layers = {"0": {"snr": step / 10, "residual": None}}
        board.evaluated({**line, "step": step, "accuracy": step / 100, "rows": {"forward": 64}, "layers": layers})
    board.finished({})
    events = accumulator.EventAccumulator(str(tmp_path / "paper.microring.2")).Reload()
    assert set(events.Tags()["scalars"]) == {"loss", "accuracy", "rows/forward", "layers/0/snr"}
    assert [(e.step, round(e.value, 6)) for e in events.Scalars("accuracy")] == [(10, 0.1), (20, 0.2)]
    assert [e.value for e in events.Scalars("layers/0/snr")] == [1, 2]
