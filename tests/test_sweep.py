"""A comparison whose trials are run apart ends with the files of one that is run in turn, killed or not."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time

import psutil
import pytest
import torch

from blackprop import errors
from blackprop._extras import install
from blackprop.experiments import Digits, Existing, Grid, Hardware, Imperfections, Paper, compare
from blackprop.experiments.comparison._apart import AT_WORK, compare_apart, run_alone
from blackprop.experiments.comparison._grid import with_references
from blackprop.experiments.comparison._sweep import sweep
from blackprop.experiments.engine._callbacks import Callbacks
from blackprop.experiments.records._run_folder import RunFolder
from blackprop.experiments.report import write_report

TASK = Digits(epochs=2, batch_size=479)
ROUGH = Imperfections(read_noise=0.02, drift=1e-3)
GRID = Grid(TASK, with_references([Paper(rank=2, samples=3)]), (Hardware.MONARCH, Hardware.MATRIX), (0,), ROUGH)
SMALL = Grid(TASK, with_references([]), (Hardware.MATRIX,), (0,), ROUGH)


class Heard:
    """Watches; interrupts at an optimizer step, if told to."""

    def __init__(self, interrupt_at=None):
        self.interrupt_at, self.lines, self.results = interrupt_at, [], []

    def step(self, progress):
        if progress["step"] == self.interrupt_at:
            raise KeyboardInterrupt

    def evaluated(self, line):
        self.lines.append(dict(line))

    def finished(self, result):
        self.results.append(dict(result))


def backwards(jobs):
    for number in reversed(range(len(jobs))):
        run_alone(*jobs[number])
        yield number


def after(count):
    """As `backwards`, and interrupted in the middle of the cell after so many."""

    def apart(jobs):
        for number in reversed(range(len(jobs))):
            if len(jobs) - number > count:
                grid, path = jobs[number]
                compare(grid, path, Heard(interrupt_at=4))
            run_alone(*jobs[number])
            yield number

    return apart


def files(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def assert_same_run(one, other):
    assert (one / "summary.json").read_bytes() == (other / "summary.json").read_bytes()
    assert (one / "config.json").read_bytes() == (other / "config.json").read_bytes()
    lines = [RunFolder(folder).metrics() for folder in (one, other)]
    for line in (line for some in lines for line in some):
        del line["seconds"]
    assert lines[0] == lines[1]
    states = [RunFolder(folder).checkpoint() for folder in (one, other)]
    assert states[0]["trial"] == states[1]["trial"]
    assert [line["gap_closed"] for line in states[0]["lines"]] == [line["gap_closed"] for line in states[1]["lines"]]
    assert states[0]["lines"][-1]["gap_closed"] is not None  # the last cell comes after both references
    for name, value in states[0]["model"].items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, states[1]["model"][name])
    assert [name for name in files(one) if "previous" not in name] == [
        name for name in files(other) if "previous" not in name
    ]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "run"
    compare(GRID, folder, Callbacks())
    return folder


def test_cells_in_any_order_leave_the_files_of_a_comparison(whole, tmp_path):
    heard = Heard()
    summary = compare_apart(GRID, tmp_path / "run", heard, Existing.REFUSE, backwards)
    assert_same_run(whole, tmp_path / "run")
    assert summary == RunFolder(whole).summary()
    assert len(heard.results) == len(GRID.trials())
    assert len(heard.lines) == 2 * len(GRID.trials())
    assert any(line["gap_closed"] is not None for line in RunFolder(tmp_path / "run").metrics())
    write_report([tmp_path / "run"], tmp_path / "page.html")
    assert "paper" in (tmp_path / "page.html").read_text()


@pytest.mark.parametrize("count", [0, 3])
def test_an_interrupted_sweep_goes_on_where_it_was(whole, tmp_path, count):
    with pytest.raises(KeyboardInterrupt):
        compare_apart(GRID, tmp_path / "run", Callbacks(), Existing.REFUSE, after(count))
    assert len(RunFolder(tmp_path / "run").summary()["results"]) == count
    (at_work,) = [path for path in (tmp_path / "run" / AT_WORK).iterdir() if RunFolder(path).summary()["results"] == []]
    assert RunFolder(at_work).checkpoint()["step"] == 3
    with pytest.raises(errors.RunFolderError, match="already exists"):
        compare_apart(GRID, tmp_path / "run", Callbacks(), Existing.REFUSE, backwards)
    heard = Heard()
    compare_apart(GRID, tmp_path / "run", heard, Existing.RESUME, backwards)
    assert len(heard.results) == len(GRID.trials()) - count
    assert_same_run(whole, tmp_path / "run")


def test_a_sweep_goes_on_with_a_comparison_and_the_other_way_round(whole, tmp_path):
    folder, begun = tmp_path / "run", []
    with pytest.raises(KeyboardInterrupt):
        compare(GRID, folder, Heard(interrupt_at=4))

    def apart(jobs):
        begun.extend(RunFolder(path).checkpoint() for _, path in jobs if path.exists())
        run_alone(*jobs[0])
        yield 0
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compare_apart(GRID, folder, Callbacks(), Existing.RESUME, apart)
    assert [(state["trial"]["method"], state["step"]) for state in begun] == [("oracle", 3)]
    assert len(RunFolder(folder).summary()["results"]) == 1
    compare(GRID, folder, Callbacks(), Existing.RESUME)
    compare_apart(GRID, folder, Callbacks(), Existing.RESUME, backwards)  # nothing is left, and it tidies up
    assert_same_run(whole, folder)


def test_a_cell_that_was_killed_at_its_very_beginning_is_begun_anew(tmp_path):
    folder = tmp_path / "cell"
    folder.mkdir()
    (folder / ".config.json.part").write_text("{")
    run_alone(SMALL, folder)
    assert len(RunFolder(folder).summary()["results"]) == 2


def test_overwriting_begins_anew(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        compare_apart(SMALL, tmp_path / "run", Callbacks(), Existing.REFUSE, after(1))
    seen = []

    def apart(jobs):
        seen.extend(path.exists() for _, path in jobs)
        yield from backwards(jobs)

    compare_apart(SMALL, tmp_path / "run", Callbacks(), Existing.OVERWRITE, apart)
    assert seen == [False, False]


@pytest.mark.parametrize("wrong", [{"workers": 0}, {"gpus": -1.0}])
def test_wrong_arguments_are_refused(wrong, tmp_path):
    with pytest.raises(errors.ArgumentError, match=next(iter(wrong))):
        sweep(SMALL, tmp_path / "run", Callbacks(), **wrong)
    assert not (tmp_path / "run").exists()


def test_cells_side_by_side_leave_the_files_of_a_comparison(whole, tmp_path):
    heard = Heard()
    compare(GRID, tmp_path / "run", heard, jobs=2)
    assert_same_run(whole, tmp_path / "run")
    assert len(heard.results) == len(GRID.trials())
    with pytest.raises(errors.ArgumentError, match="jobs"):
        compare(GRID, tmp_path / "other", heard, jobs=0)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_or_killed_comparison_side_by_side_leaves_no_process_and_goes_on(whole, how, tmp_path):
    options = ["--epochs", "2", "--batch-size", "479", "--methods", "paper", "--devices", "monarch", "matrix"]
    options += ["--rank", "2", "--samples", "3", "--seeds", "1", "--read-noise", "0.02", "--drift", "1e-3"]
    for attempt in range(3):  # the last cell may end before the signal is heard
        folder = tmp_path / f"run{attempt}"
        command = [sys.executable, "-m", "blackprop", "compare", "digits", *options, "--run-dir", str(folder)]
        process = subprocess.Popen([*command, "--jobs", "2"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        deadline = time.monotonic() + 120
        while not list(folder.glob("trials/*/checkpoint.bin")) and time.monotonic() < deadline:
            time.sleep(0.01)
        workers = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(how)
        _, err = process.communicate(timeout=60)
        if process.returncode != 0:
            break
    assert "Traceback" not in err
    assert process.returncode == (130 if how is signal.SIGINT else -how)
    assert not psutil.wait_procs(workers, timeout=30)[1]
    assert subprocess.run([*command, "--jobs", "2", "--resume"], check=False, capture_output=True).returncode == 0
    assert_same_run(whole, folder)


# Through Ray.


def test_without_ray_it_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(errors.BlackpropError, match=re.escape(install("ray"))):
        sweep(SMALL, tmp_path / "run", Callbacks())


def test_a_sweep_through_ray_goes_on_and_ends_as_a_comparison(whole, tmp_path, monkeypatch):
    pytest.importorskip("ray", reason="needs the extra `ray`")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    folder, heard = tmp_path / "run", Heard()
    with pytest.raises(KeyboardInterrupt):
        compare_apart(GRID, folder, Callbacks(), Existing.REFUSE, after(3))
    sweep(GRID, folder, heard, Existing.RESUME, workers=2)
    assert len(heard.results) == len(GRID.trials()) - 3
    assert_same_run(whole, folder)
