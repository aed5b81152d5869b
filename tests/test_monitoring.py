"""A monitor in a loop, in Lightning and in the Trainer: what it writes, and that it stops before a budget is passed."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import textwrap
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import blackprop as bp
from blackprop.errors import ArgumentError, BlackpropWarning, BudgetExhausted, RunFolderError
from blackprop.experiments.report import write_report
from blackprop.monitoring import RunMonitor
from blackprop.monitoring._process import lives, this_process
from support import draw

DATA = TensorDataset(draw(48, 5), draw(48, 2, seed=1))
ROWS = 8  # of a step


class Net(nn.Module):
    def __init__(self, budget: bp.Budget | None = None) -> None:
        super().__init__()
        torch.manual_seed(1)
        device = bp.devices.LightModulator(6, 4)
        self.first, self.last = nn.Linear(5, 6), nn.Linear(4, 2)
        self.optics = bp.PhysicalLayer(device, budget=budget)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.optics(torch.tanh(self.first(x))))


def optimizer_of(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(bp.param_groups(model, lr=1e-2, device_lr=3e-2))


def train(model: nn.Module, monitor: RunMonitor, steps: int, step: int = 0) -> int:
    optimizer = optimizer_of(model)
    with monitor.follow(model, step=step, steps=step + steps):
        for number in range(steps):
            x, target = DATA[8 * number % 48 : 8 * number % 48 + 8]
            optimizer.zero_grad()
            loss = (model(x) - target).square().mean()
            loss.backward()
            optimizer.step()
            if monitor.step(loss):
                return number + 1
    return steps


def status(folder: Path) -> dict:
    return json.loads((folder / "status.json").read_text())


def lines(folder: Path, name: str = "live.jsonl") -> list[dict]:
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


def test_a_loop_is_recorded_as_the_ledger_and_the_diagnosis_have_it(tmp_path):
    model, monitor = Net(), RunMonitor(tmp_path / "run", every=1e-9)
    train(model, monitor, 6)
    now, ledger = status(tmp_path / "run"), bp.ledger(model)
    assert (now["state"], now["step"], now["steps"]) == ("finished", 6, 6)
    assert (now["rows"], now["programmings"]) == (ledger.total_rows, ledger.total_programmings)
    diagnosis = bp.diagnose(model)["optics"]
    assert now["layers"]["optics"]["signal"] == pytest.approx(diagnosis.signal)
    assert now["layers"]["optics"]["residual"] == pytest.approx(diagnosis.residual)
    steps = [line["step"] for line in lines(tmp_path / "run")]
    assert (steps[0], steps[-1]) == (1, 6)
    assert steps == sorted(set(steps))
    assert monitor.numbers()["blackprop/rows"] == ledger.total_rows
    assert monitor.numbers()["blackprop/layer/optics/signal"] == pytest.approx(diagnosis.signal)


def test_the_history_is_sparse_and_the_last_step_is_in_it(tmp_path):
    train(Net(), RunMonitor(tmp_path / "run", every=1000.0), 6)
    assert [line["step"] for line in lines(tmp_path / "run")] == [1, 6]


def forward_rows(model: Net) -> int:
    return model.optics.ledger.rows[bp.Purpose.FORWARD]


@pytest.mark.parametrize("where", ["monitor", "layer", "both"])
def test_training_stops_before_a_budget_is_passed(where, tmp_path):
    free = Net()
    train(free, RunMonitor(tmp_path / "free"), 10)
    calibration = bp.ledger(free).total_rows - 10 * ROWS
    limit = calibration + 5 * ROWS + 3
    budget = bp.Budget(rows=limit)
    model = Net(budget if where != "monitor" else None)
    monitor = RunMonitor(tmp_path / "run", budget=budget if where != "layer" else None)
    assert train(model, monitor, 10) == 5
    assert limit - ROWS < bp.ledger(model).total_rows <= limit
    assert status(tmp_path / "run")["state"] == "stopped"
    assert "rows are spent" in status(tmp_path / "run")["reason"] == monitor.reason
    assert status(tmp_path / "run")["limits"]["rows"] == [limit - 3, limit]


def test_the_tightest_of_several_budgets_counts(tmp_path):
    model = Net(bp.Budget(rows=10_000, seconds=1e6))
    monitor = RunMonitor(tmp_path / "run", budget=bp.Budget(rows=500, programmings=10**6))
    train(model, monitor, 3)
    limits = status(tmp_path / "run")["limits"]
    assert {name: limit for name, (_, limit) in limits.items()} == {"rows": 500, "programmings": 10**6, "seconds": 1e6}


def test_a_budget_that_ends_within_a_step_is_told_as_stopped(tmp_path):
    model = Net(bp.Budget(rows=5))
    with pytest.raises(BudgetExhausted):
        train(model, RunMonitor(tmp_path / "run"), 3)
    assert status(tmp_path / "run")["state"] == "stopped"


def test_an_error_is_recorded(tmp_path):
    model = Net()
    with pytest.raises(ZeroDivisionError), RunMonitor(tmp_path / "run").follow(model) as monitor:
        monitor.step(1.0)
        1 / 0  # noqa: B018
    assert status(tmp_path / "run")["state"] == "failed"
    assert "division by zero" in status(tmp_path / "run")["reason"]


def test_a_resumed_training_continues_its_records(tmp_path):
    model = Net()
    train(model, RunMonitor(tmp_path / "run", every=1000.0), 3)
    with pytest.raises(RunFolderError, match="overwrite"):
        RunMonitor(tmp_path / "run").follow(model)
    train(model, RunMonitor(tmp_path / "run", every=1000.0), 3, step=3)
    assert [line["step"] for line in lines(tmp_path / "run")] == [1, 3, 4, 6]
    train(model, RunMonitor(tmp_path / "run", overwrite=True), 2)
    assert [line["step"] for line in lines(tmp_path / "run")] == [1, 2]
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("")
    with pytest.raises(RunFolderError, match="another"):
        RunMonitor(tmp_path / "other").follow(model)


def test_scores_and_warnings_are_recorded_and_reported(tmp_path):
    model, monitor = Net(), RunMonitor(tmp_path / "run", name="mine")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        shown = []
        warnings.showwarning = lambda *given, **more: shown.append(str(given[0]))
        with monitor.follow(model):
            monitor.step(2.0)
            for _ in range(2):
                warnings.warn("the lamp is weak: replace it", BlackpropWarning, stacklevel=1)
            warnings.warn("of another library", UserWarning, stacklevel=1)
            monitor.evaluated(accuracy=0.75)
        assert shown == ["the lamp is weak: replace it"] * 2 + ["of another library"]
    (told,) = lines(tmp_path / "run", "warnings.jsonl")
    assert (told["message"], told["step"]) == ("the lamp is weak: replace it", 1)
    page = write_report([tmp_path / "run"], tmp_path / "report.html").read_text()
    assert "75.0" in page
    assert "mine" in page


def test_a_number_that_is_not_finite_is_none(tmp_path):
    with RunMonitor(tmp_path / "run").follow(Net()) as monitor:
        monitor.step(math.nan)
    assert status(tmp_path / "run")["loss"] is None


def test_a_full_disk_does_not_end_the_training(tmp_path):
    monitor = RunMonitor(tmp_path / "run", every=1e-9)
    with monitor.follow(Net()):
        (tmp_path / "run" / "live.jsonl").mkdir()
        with pytest.warns(BlackpropWarning, match="live record"):
            monitor.step(1.0)
        monitor.step(1.0)  # and is said once


def test_wrong_uses_are_refused():
    with pytest.raises(ArgumentError, match="Budget"):
        RunMonitor("x", budget=3)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ArgumentError, match="every"):
        RunMonitor("x", every=0)
    with pytest.raises(ArgumentError, match="follow"):
        RunMonitor("x").step()


def test_a_killed_process_is_known_from_one_that_lives():
    code = """
        import json, sys, time
        from blackprop.monitoring._process import this_process
        print(json.dumps(this_process()), flush=True)
        time.sleep(60)
    """
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    told = json.loads(process.stdout.readline())
    assert lives(told) is True
    assert lives(this_process()) is True
    os.kill(process.pid, signal.SIGKILL)
    process.stdout.close()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # it is not waited for: a zombie has ended, too
    assert lives(told) is False
    process.wait()
    assert lives(told) is False
    assert lives({**told, "pid": os.getpid()}) is False  # another process took the number
    assert lives({**told, "place": "elsewhere"}) is None


def test_the_monitor_imports_no_framework():
    code = """
        import sys
        from blackprop.monitoring import RunMonitor
        RunMonitor("x")
        print({"lightning", "transformers"} & set(sys.modules))
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "set()\n"


def test_a_framework_that_is_not_installed_is_named(monkeypatch):
    for name in ("lightning.pytorch.callbacks", "pytorch_lightning.callbacks", "transformers"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ArgumentError, match="pip install lightning"):
        RunMonitor("x").lightning()
    with pytest.raises(ArgumentError, match="pip install transformers"):
        RunMonitor("x").transformers()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("limit", [None, 20 * ROWS + 3])
def test_lightning_is_followed_and_stopped(limit, tmp_path):
    lightning = pytest.importorskip("lightning", reason="Lightning is not installed")
    from lightning.pytorch.loggers import CSVLogger

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = Net()

        def training_step(self, batch):
            x, target = batch
            return (self.net(x) - target).square().mean()

        def validation_step(self, batch):
            x, target = batch
            self.log("accuracy", -(self.net(x) - target).square().mean())

        def configure_optimizers(self):
            return optimizer_of(self.net)

    free = Module()
    monitor = RunMonitor(tmp_path / "run", every=1e-9)
    logger = CSVLogger(str(tmp_path), name="log", version="0", flush_logs_every_n_steps=1)
    options = {"accelerator": "cpu", "logger": logger, "enable_progress_bar": False, "enable_model_summary": False}
    if limit is not None:
        calibration = _calibration()
        monitor = RunMonitor(tmp_path / "run", every=1e-9, budget=bp.Budget(rows=calibration + limit))
    trainer = lightning.Trainer(max_epochs=4, callbacks=[monitor.lightning()], enable_checkpointing=False, **options)
    trainer.fit(free, DataLoader(DATA, ROWS), DataLoader(DATA, 16))
    now = status(tmp_path / "run")
    header = (tmp_path / "log" / "0" / "metrics.csv").read_text()
    assert "blackprop/layer/net.optics/signal" in header
    assert now["scores"]["accuracy"] < 0
    if limit is None:
        assert (now["state"], now["step"], now["steps"]) == ("finished", 24, 24)
        assert now["rows"] == bp.ledger(free).total_rows
        assert len(lines(tmp_path / "run", "metrics.jsonl")) == 4
    else:
        assert now["state"] == "stopped"
        assert trainer.global_step < 24
        assert calibration + limit - 2 * 48 < bp.ledger(free).total_rows <= calibration + limit + 48


def _calibration() -> int:
    model = Net()
    model(DATA[:ROWS][0]).sum().backward()
    return bp.ledger(model).total_rows - ROWS


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("limit", [None, 5 * ROWS + 3])
def test_the_trainer_of_transformers_is_followed_and_stopped(limit, tmp_path):
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")

    class Scored(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = Net()

        def forward(self, x, labels=None):
            y = self.net(x)
            return {"loss": (y - labels).square().mean(), "logits": y}

    model = Scored()
    budget = None if limit is None else bp.Budget(rows=_calibration() + limit)
    monitor = RunMonitor(tmp_path / "run", every=1e-9, budget=budget)
    arguments = transformers.TrainingArguments(
        output_dir=str(tmp_path / "out"), max_steps=12, per_device_train_batch_size=ROWS, logging_steps=4,
        save_strategy="no", report_to=[], use_cpu=True, disable_tqdm=True,
    )  # fmt: skip
    rows = [{"x": x, "labels": y} for x, y in DATA]
    optimizer = optimizer_of(model)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
    trainer = transformers.Trainer(
        model=model, args=arguments, train_dataset=rows, optimizers=(optimizer, schedule),
        callbacks=[monitor.transformers()],
    )  # fmt: skip
    trainer.train()
    now = status(tmp_path / "run")
    if limit is None:
        assert (now["state"], now["step"], now["steps"]) == ("finished", 12, 12)
        logged = [entry for entry in trainer.state.log_history if "loss" in entry]
        assert [entry["step"] for entry in logged] == [4, 8, 12]
        assert logged[-1]["blackprop/rows"] == bp.ledger(model).total_rows
        assert logged[-1]["loss"] == pytest.approx(now["loss"])
    else:
        assert (now["state"], now["step"], trainer.state.global_step) == ("stopped", 5, 5)
        assert bp.ledger(model).total_rows <= budget.limits["rows"]  # pyright: ignore[reportOptionalMemberAccess]
