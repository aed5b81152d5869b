"""Recipes: what is trained is what is declared, it costs what was priced, and an interruption changes nothing."""

from __future__ import annotations

import errno
import json
import os
import time
from dataclasses import replace
from datetime import datetime

import pytest
import torch

import blackprop as bp
from blackprop import errors
from blackprop.experiments import (
    Digits,
    Execution,
    Existing,
    FrozenReference,
    Grid,
    Hardware,
    Imperfections,
    OracleReference,
    Paper,
    PhysicalTwin,
    Trial,
    compare,
    price,
)
from blackprop.experiments.comparison._grid import with_references
from blackprop.experiments.comparison._summary import gap_closed
from blackprop.experiments.engine._bill import Bill
from blackprop.experiments.engine._execution import ORDINARY
from blackprop.experiments.engine._hardware import FLAWLESS
from blackprop.experiments.engine._training import Training
from blackprop.experiments.records._run_folder import RunFolder, decoded, encoded
from blackprop.experiments.tasks._networks import DigitNetwork

QUICK = Digits(epochs=3, batch_size=128)
SMALL = Paper(rank=4, samples=3)
ROUGH = Imperfections(read_noise=0.02, theta_bits=8, output_bits=8, drift=1e-3)


class Quiet:
    """Watches and says nothing; interrupts at an optimizer step, if told to."""

    def __init__(self, interrupt_at: int | None = None) -> None:
        self.interrupt_at = interrupt_at
        self.results: list[dict] = []

    def step(self, progress):
        if progress["step"] == self.interrupt_at:
            raise KeyboardInterrupt

    def evaluated(self, line):
        pass

    def finished(self, result):
        self.results.append(dict(result))


@pytest.fixture(scope="module")
def data():
    return Digits().data()


def one(method=SMALL, hardware=Hardware.LIGHT_MODULATOR, task=QUICK, imperfections=FLAWLESS, seeds=(0,)):
    return Grid(task, (method,), (hardware,), seeds, imperfections)


def run(trial, data):
    """A run without a folder: segments chained through their states, as the loop chains them through the checkpoint."""
    training = Training(trial, data)
    while not training.done:
        training.run_segment(Quiet())
        training = Training(trial, data, state=training.state())
    return training


def without_time(entry):
    return {name: value for name, value in entry.items() if name != "seconds"}


def assert_same(a, b):
    assert type(a) is type(b)
    if isinstance(a, torch.Tensor):
        assert torch.equal(torch.nan_to_num(a), torch.nan_to_num(b))
    elif isinstance(a, dict):
        assert a.keys() == b.keys()
        for name in a.keys() - {"seconds"}:
            assert_same(a[name], b[name])
    elif isinstance(a, list | tuple):
        assert len(a) == len(b)
        for left, right in zip(a, b, strict=True):
            assert_same(left, right)
    else:
        assert a == b


def assert_same_run(a, b):
    """Weights, optimizer, generators, ledger, metrics and summary, bit for bit; only the clock may differ."""
    folders = [RunFolder(path) for path in (a, b)]
    assert_same(*(folder.checkpoint() for folder in folders))
    assert_same(*([without_time(line) for line in folder.metrics()] for folder in folders))
    assert_same(*(folder.summary() for folder in folders))


# The task and its cells.


def test_the_split_is_fixed_stratified_and_scaled(data):
    assert data.x_train.shape == (1437, 64)
    assert data.x_test.shape == (360, 64)
    assert float(data.x_train.min()) == 0
    assert float(data.x_train.max()) == 1
    assert data.y_test.bincount().min() >= 34
    assert torch.equal(data.x_test, Digits().data().x_test)


@pytest.mark.parametrize("network", DigitNetwork)
def test_all_methods_start_alike_and_the_global_generator_is_left_alone(network):
    task = Digits(network=network)
    before = torch.get_rng_state()
    models = [
        Trial(task, method, Hardware.MICRORING, seed=3).model()
        for method in (OracleReference(), FrozenReference(), Paper())
    ]
    assert torch.equal(before, torch.get_rng_state())
    states = [{name: p.detach() for name, p in model.named_parameters()} for model in models]
    assert_same(states[0], states[1])
    assert_same(states[0], states[2])
    other = dict(Trial(task, OracleReference(), Hardware.MICRORING, seed=4).model().named_parameters())
    assert not torch.equal(
        states[0]["2.theta" if network is DigitNetwork.HYBRID else "0.theta"],
        other[next(n for n in other if n.endswith("theta"))],
    )


def test_the_published_settings_reach_the_layer_through_every_wrapper():
    def layer(hardware, d_out=64, rank=10):
        return Trial(QUICK, Paper(rank=rank), hardware, imperfections=Imperfections(read_noise=0.1)).layer(64, d_out, 0)

    assert layer(Hardware.MATRIX).estimator.step == 1.0
    assert layer(Hardware.MICRORING).estimator.step == 1e-4
    assert layer(Hardware.MICRORING).surrogate.rebuild_every is None
    assert layer(Hardware.MZI_MESH).surrogate.rebuild_every == 100
    assert layer(Hardware.THREE_SPLITTER_MESH).surrogate.rebuild_every == 100
    assert layer(Hardware.MICRORING, d_out=10, rank=50).surrogate.rank == 10
    assert layer(Hardware.DIFFRACTION).surrogate.treat_as_linear


@pytest.mark.parametrize("hardware", Hardware)
def test_every_device_takes_an_epoch_of_every_method(hardware, data):
    task = Digits(epochs=1, batch_size=718)
    for method in (OracleReference(), FrozenReference(), Paper(rank=2, samples=1)):
        assert 0 <= run(Trial(task, method, hardware), data).score <= 1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Digits(epochs=0), "epochs"),
        (lambda: Digits(batch_size=1), "batch_size"),
        (lambda: Digits(batch_size=1438), "between 2 and 1437"),
        (lambda: Digits(lr=float("nan")), "lr"),
        (lambda: Paper(samples=0), "samples"),
        (lambda: Imperfections(drift=-1), "drift"),
        (lambda: one(seeds=()), "at least one"),
        (lambda: Grid(QUICK, (SMALL, Paper()), (Hardware.MATRIX,)), "each once"),
    ],
)
def test_wrong_settings_are_refused_in_the_words_of_the_caller(make, message):
    with pytest.raises(errors.ArgumentError, match=message):
        make()


# What it costs.


@pytest.mark.parametrize("batch", [8, 32, 128])
def test_the_published_method_costs_what_it_says(batch, data):
    task, M, r = Digits(epochs=2, batch_size=batch), 3, 4
    training = run(Trial(task, Paper(rank=r, samples=M), Hardware.LIGHT_MODULATOR), data)
    S = 2 * (1437 // batch)
    first, second = (m for m in training.model.modules() if isinstance(m, bp.PhysicalLayer))
    for layer, d_out in ((first, 64), (second, 10)):
        base = d_out if batch > d_out else 0  # contracted rows were not read by the forward pass
        assert layer.ledger.rows[bp.Purpose.FORWARD] == S * batch
        assert layer.ledger.rows[bp.Purpose.PARAMETER] == S * (M * min(batch, d_out) + base)
        assert layer.ledger.rows[bp.Purpose.EVALUATE] == 2 * 360
        assert layer.ledger.programmings[bp.Purpose.FORWARD] == S
        assert layer.ledger.programmings[bp.Purpose.PARAMETER] == M * S
        assert layer.ledger.programmings[bp.Purpose.EVALUATE] == 2
    assert first.ledger.rows[bp.Purpose.SURROGATE] == first.ledger.programmings[bp.Purpose.SURROGATE] == 0
    assert second.ledger.rows[bp.Purpose.SURROGATE] == 64 + (S - 1) * 2 * (r + M)
    assert second.ledger.programmings[bp.Purpose.SURROGATE] == S - 1
    bill = Bill.of_model(training.model, S)
    beyond = sum(first.ledger.rows[p] + second.ledger.rows[p] for p in (bp.Purpose.PARAMETER, bp.Purpose.SURROGATE))
    assert bill.row_overhead == beyond / (2 * S * batch)
    assert bill.programming_overhead == (2 * M * S + S - 1) / (2 * S)


@pytest.mark.parametrize("network", DigitNetwork)
@pytest.mark.parametrize("method", [OracleReference(), FrozenReference()], ids=lambda m: m.name)
def test_the_references_cost_nothing_beyond_training(method, network, data):
    result = run(Trial(replace(QUICK, network=network), method, Hardware.MICRORING), data).result()
    assert result["row_overhead"] == 0
    assert result["programming_overhead"] == 0
    assert result["programmings"]["parameter"] == result["programmings"]["surrogate"] == 0


@pytest.mark.parametrize(
    ("method", "hardware", "task", "imperfections"),
    [
        (SMALL, Hardware.LIGHT_MODULATOR, QUICK, Imperfections()),
        (SMALL, Hardware.MICRORING, replace(QUICK, network=DigitNetwork.HYBRID), ROUGH),
        (SMALL, Hardware.MONARCH, replace(QUICK, epochs=1), Imperfections(read_noise=0.1)),
        (Paper(rank=10, samples=1), Hardware.THREE_SPLITTER_MESH, Digits(epochs=3, batch_size=39), Imperfections()),
        (OracleReference(), Hardware.MICRORING, QUICK, Imperfections()),
        (FrozenReference(), Hardware.MICRORING, replace(QUICK, network=DigitNetwork.HYBRID), Imperfections()),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_the_price_is_what_the_run_then_costs(method, hardware, task, imperfections, data, monkeypatch):
    trial = Trial(task, method, hardware, seed=1, imperfections=imperfections)
    with monkeypatch.context() as patched:
        for kind in (bp.Simulator, bp.devices.Wrapper):
            patched.setattr(kind, "measure", lambda *_: pytest.fail("pricing asked a device"))
        priced = price(trial, data)
    training = run(trial, data)
    spent = Bill.of_model(training.model, training.steps)
    assert priced.rows == spent.rows
    assert priced.programmings == spent.programmings
    assert priced.needed == spent.needed
    assert priced.lab_seconds == pytest.approx(spent.lab_seconds)


# What it finds.


def test_methods_rank_as_their_gradients_do_and_the_summary_is_the_checkpoints(data, tmp_path):
    methods = with_references([Paper(rank=10, samples=50)])
    assert [method.name for method in methods] == ["oracle", "frozen", "paper"]
    grid = Grid(Digits(epochs=8, lr=1e-2), methods, (Hardware.LIGHT_MODULATOR,))
    summary = compare(grid, tmp_path / "run", Quiet())
    oracle, frozen, paper = summary["results"]
    assert oracle["accuracy"] > 0.95
    assert frozen["accuracy"] < 0.75
    assert paper["gap_closed"] > 0.8  # a θ-gradient of noise leaves it at about 0
    assert (oracle["gap_closed"], frozen["gap_closed"]) == (1, 0)
    model = grid.trials()[-1].model()
    model.load_state_dict(RunFolder(tmp_path / "run").checkpoint()["model"])
    with torch.no_grad():
        right = model.eval()(data.x_test).argmax(1) == data.y_test
    assert paper["accuracy"] == pytest.approx(right.float().mean().item())


def test_the_gap_closed_is_relative_to_the_means_of_the_same_device():
    def result(method, device, seed, accuracy):
        return {"method": method, "device": device, "seed": seed, "accuracy": accuracy}

    results = [
        result("oracle", "a", 0, 0.9),
        result("oracle", "a", 1, 1.0),
        result("frozen", "a", 0, 0.4),
        result("frozen", "a", 1, 0.5),
        result("paper", "a", 0, 0.7),
        result("paper", "b", 0, 0.7),
        result("oracle", "c", 0, 0.7),
        result("frozen", "c", 0, 0.7),
    ]
    gaps = gap_closed(results)
    assert gaps[:5] == pytest.approx([0.9, 1.1, -0.1, 0.1, 0.5])
    assert gaps[5:] == [None, None, None]


def test_a_run_folder_holds_what_it_should(tmp_path):
    task = Digits(epochs=1, batch_size=718)
    watch = Quiet()
    grid = Grid(task, with_references([SMALL]), (Hardware.MATRIX, Hardware.MONARCH), (0, 1))
    summary = compare(grid, tmp_path / "run", watch)
    assert {p.name for p in (tmp_path / "run").iterdir()} == {
        "config.json",
        "origin.json",
        "metrics.jsonl",
        "checkpoint.bin",
        "checkpoint.previous.bin",
        "summary.json",
        "portraits",
    }
    assert json.loads((tmp_path / "run" / "summary.json").read_text()) == summary
    assert (summary["task"], summary["network"]) == ("digits", "physical")
    purposes = {purpose.value for purpose in bp.Purpose}
    for entry in summary["results"]:
        assert entry.keys() == {
            *("task", "network", "method", "device", "seed", "metric", "allowance", "accuracy", "f1", "gap_closed"),
            *("steps", "planned_steps", "rows", "programmings", "row_overhead", "programming_overhead", "lab_seconds"),
        }
        assert entry["rows"].keys() == entry["programmings"].keys() == purposes
    keys = [(r["device"], r["seed"], r["method"]) for r in summary["results"]]
    assert keys == [(d, s, m) for d in ("matrix", "monarch") for s in (0, 1) for m in ("oracle", "frozen", "paper")]
    assert len(watch.results) == 12
    lines = RunFolder(tmp_path / "run").metrics()
    assert len(lines) == 12
    assert {"epoch", "step", "loss", "accuracy", "rows", "programmings", "seconds"} <= lines[0].keys()
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["settings"]["batch_size"] == 718
    assert config["methods"]["paper"]["samples"] == 3
    origin = json.loads((tmp_path / "run" / "origin.json").read_text())
    assert origin["version"] == bp.__version__
    assert abs(datetime.strptime(origin["begun"], "%Y-%m-%d %H:%M %z").timestamp() - time.time()) < 600


# Interruptions.


@pytest.mark.parametrize("imperfections", [Imperfections(), ROUGH], ids=["flawless", "rough"])
@pytest.mark.parametrize("network", DigitNetwork)
def test_an_interrupted_run_ends_as_if_it_had_not_been(network, imperfections, tmp_path):
    grid = one(task=replace(QUICK, network=network), imperfections=imperfections, seeds=(0, 1))
    steps = 1437 // 128
    compare(grid, tmp_path / "whole", Quiet())
    for interrupt_at in (2, 2 * steps + 3):  # in the first epoch, in the last
        with pytest.raises(KeyboardInterrupt):
            compare(
                grid,
                tmp_path / "cut",
                Quiet(interrupt_at),
                Existing.RESUME if (tmp_path / "cut").exists() else Existing.REFUSE,
            )
        state = RunFolder(tmp_path / "cut").checkpoint()
        assert (0 if state is None else state["step"]) == interrupt_at // steps * steps
        assert RunFolder(tmp_path / "cut").summary()["results"] == []
    watch = Quiet()
    compare(grid, tmp_path / "cut", watch, Existing.RESUME)
    assert [result["seed"] for result in watch.results] == [0, 1]
    assert_same_run(tmp_path / "whole", tmp_path / "cut")


def test_what_is_finished_is_not_run_again(tmp_path):
    grid = one(seeds=(0, 1))
    with pytest.raises(KeyboardInterrupt):
        compare(grid, tmp_path / "run", _InterruptsAfterOne())
    watch = Quiet()
    summary = compare(grid, tmp_path / "run", watch, Existing.RESUME)
    assert [result["seed"] for result in watch.results] == [1]
    assert compare(grid, tmp_path / "run", Quiet(interrupt_at=1), Existing.RESUME) == summary


class _InterruptsAfterOne(Quiet):
    def finished(self, result):
        raise KeyboardInterrupt


@pytest.mark.parametrize("write", range(4, 9))  # after configuration, origin and metrics
def test_a_disk_that_is_full_for_a_while_costs_a_warning_and_nothing_else(write, tmp_path, monkeypatch):
    grid = one(task=replace(QUICK, batch_size=718))
    compare(grid, tmp_path / "whole", Quiet())
    count, fsync = 0, os.fsync

    def full(descriptor):
        nonlocal count
        count += 1
        if count == write:
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.warns(errors.BlackpropWarning, match=r"No space left on device"):
        compare(grid, tmp_path / "full", Quiet())
    assert not list((tmp_path / "full").glob(".*"))
    assert_same_run(tmp_path / "whole", tmp_path / "full")


def test_a_disk_that_stays_full_leaves_the_checkpoint_before_good_and_is_told_of_at_the_end(tmp_path, monkeypatch):
    grid = one(task=replace(QUICK, batch_size=718))
    compare(grid, tmp_path / "whole", Quiet())
    count, fsync = 0, os.fsync

    def full(descriptor):
        nonlocal count
        count += 1
        if count > 5:  # configuration, origin, metrics, summary, a checkpoint
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(descriptor)

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with (
            pytest.warns(errors.BlackpropWarning) as told,
            pytest.raises(errors.RunFolderError, match="No space left on device"),
        ):
            compare(grid, tmp_path / "cut", Quiet())
    assert any("the checkpoint before it stays good" in str(warning.message) for warning in told)
    state = RunFolder(tmp_path / "cut").checkpoint()
    assert state is not None
    assert state["step"] == 2
    with (tmp_path / "cut" / "metrics.jsonl").open("a") as file:
        file.write('{"method": "paper", "epo')  # what a full disk leaves of a line
    compare(grid, tmp_path / "cut", Quiet(), Existing.RESUME)
    assert_same_run(tmp_path / "whole", tmp_path / "cut")


def test_a_line_that_a_full_disk_held_back_is_written_with_the_next(tmp_path):
    folder = RunFolder.open(tmp_path / "run", {})
    path = tmp_path / "run" / "metrics.jsonl"
    path.unlink()
    path.mkdir()  # cannot be written to, even by root
    with pytest.warns(errors.BlackpropWarning, match="written when there is room"):
        folder.append_metrics({"step": 1})
    path.rmdir()
    folder.append_metrics({"step": 2})
    assert folder.metrics() == [{"step": 1}, {"step": 2}]


def test_a_line_after_one_that_was_cut_short_is_whole(tmp_path):
    folder, path = RunFolder.open(tmp_path / "run", {}), tmp_path / "run" / "metrics.jsonl"
    folder.append_metrics({"step": 1})
    with path.open("a") as file:
        file.write('{"step": 2, "lo')  # the process was killed, or the disk was full
    RunFolder(tmp_path / "run").append_metrics({"step": 3})
    folder.append_metrics({"step": 4})
    assert folder.metrics() == [{"step": 1}, {"step": 3}, {"step": 4}]
    assert path.read_text().splitlines() == ['{"step": 1}', '{"step": 2, "lo', '{"step": 3}', '{"step": 4}']


JUNK = [
    b"\xff\xfe\x00 junk",
    b"[" * 100_000,
    b'{"step": ' + b"[" * 100_000,
    b"null\n3\n[]\n{}",
    b'{"step": 1}',
    b'{"step": 1, "method": ["paper"], "device": {}, "seed": [0]}',
    b'{"step": 1, "method": "paper", "device": "light-modulator", "seed": 0}',
    b'{"step": 1, "method": "paper", "device": "light-modulator", "seed": 0, "accuracy": [1]}',
    b"9" * 10_000,
    "\u2028{\u2029".encode(),
]


@pytest.mark.parametrize("junk", JUNK, ids=range(len(JUNK)))
def test_junk_among_the_metrics_is_passed_over_on_resume(junk, finished):
    grid = one(task=Digits(epochs=1, batch_size=718))
    lines = RunFolder(finished).metrics()
    with (finished / "metrics.jsonl").open("ab") as file:
        file.write(junk)
    compare(grid, finished, Quiet(), Existing.RESUME)
    assert RunFolder(finished).metrics() == lines


def test_from_a_damaged_checkpoint_the_one_before_is_taken(tmp_path):
    grid = one()
    compare(grid, tmp_path / "whole", Quiet())
    with pytest.raises(KeyboardInterrupt):
        compare(grid, tmp_path / "cut", Quiet(interrupt_at=2 * (1437 // 128) + 3))
    damaged = tmp_path / "cut" / "checkpoint.bin"
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 1  # one bit
    damaged.write_bytes(content)
    with pytest.warns(errors.BlackpropWarning, match="does not fit its checksum; the one before it is taken"):
        compare(grid, tmp_path / "cut", Quiet(), Existing.RESUME)
    assert_same_run(tmp_path / "whole", tmp_path / "cut")


def test_a_run_ends_early_where_its_score_grows_no_better(tmp_path):
    grid = replace(one(method=FrozenReference(), task=replace(QUICK, epochs=40)), execution=Execution(patience=2))
    (result,) = compare(grid, tmp_path / "run", Quiet())["results"]
    scores = [line["accuracy"] for line in RunFolder(tmp_path / "run").metrics()]
    assert 3 <= len(scores) < 40
    assert result["accuracy"] == scores[-1]
    assert max(scores[-2:]) <= max(scores[:-2])


def test_parts_of_a_batch_move_theta_once_and_as_the_whole_batch_does(data):
    def trained(execution):
        trial = Trial(
            replace(QUICK, epochs=1, network=DigitNetwork.HYBRID),
            OracleReference(),
            Hardware.MATRIX,
            execution=execution,
        )
        return run(trial, data)

    whole, parts = trained(ORDINARY), trained(Execution(accumulate=4))
    assert parts.result()["programmings"] == whole.result()["programmings"]
    # batch norm sees a part at a time, so the two are alike and not the same
    assert abs(parts.loss - whole.loss) < 0.2 * whole.loss
    moved = [training.model[2].theta.detach() for training in (whole, parts)]
    assert 0 < float((moved[1] - moved[0]).norm() / moved[0].norm()) < 0.3


def test_clipping_shortens_digital_gradients_and_a_batch_smaller_than_its_parts_is_refused(data):
    trial = Trial(replace(QUICK, epochs=1), OracleReference(), Hardware.MATRIX)
    plain, clipped = run(trial, data), run(replace(trial, execution=Execution(clip=1e-9)), data)
    assert not torch.equal(plain.model[1].weight, clipped.model[1].weight)
    with pytest.raises(errors.ArgumentError, match="cannot be shared"):
        run(replace(trial, execution=Execution(accumulate=129)), data)


# Refusals: before anything is spent or changed.


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.fixture
def finished(tmp_path):
    compare(one(task=Digits(epochs=1, batch_size=718)), tmp_path / "run", Quiet())
    return tmp_path / "run"


def refused(grid, path, existing, error, match):
    before = contents(path) if path.is_dir() else None
    with pytest.raises(error, match=match):
        compare(grid, path, Quiet(), existing)
    assert (contents(path) if path.is_dir() else None) == before


def test_a_folder_that_exists_is_refused_unless_told(finished):
    grid = one(task=Digits(epochs=1, batch_size=718))
    refused(grid, finished, Existing.REFUSE, errors.RunFolderError, "exists already.*--resume.*--overwrite.*--run-dir")
    (finished / "notes.txt").write_text("mine")
    watch = Quiet()
    compare(replace(grid, seeds=(5,)), finished, watch, Existing.OVERWRITE)
    assert [result["seed"] for result in watch.results] == [5]
    assert (finished / "notes.txt").read_text() == "mine"
    assert [line["seed"] for line in RunFolder(finished).metrics()] == [5]


def test_the_run_of_another_configuration_is_not_resumed_and_the_difference_is_shown(finished):
    other = Grid(Digits(epochs=2, batch_size=718), (Paper(rank=4, samples=7),), (Hardware.LIGHT_MODULATOR,))
    refused(other, finished, Existing.RESUME, errors.RunFolderError, r"epochs was 1 and is 2.*samples was 3 and is 7")


def test_a_setting_that_the_run_did_not_have_is_a_difference_too(finished):
    config = json.loads((finished / "config.json").read_text())
    del config["settings"]["epochs"], config["execution"]["clip"]  # as an earlier version wrote it
    (finished / "config.json").write_text(json.dumps(config))
    grid = one(task=Digits(epochs=1, batch_size=718))
    refused(grid, finished, Existing.RESUME, errors.RunFolderError, r"settings\.epochs was null and is 1")
    config["settings"]["epochs"], config["settings"]["warm_up"] = 1, 3  # as a later one may
    (finished / "config.json").write_text(json.dumps(config))
    refused(grid, finished, Existing.RESUME, errors.RunFolderError, r"settings\.warm_up was 3 and is null")


@pytest.mark.parametrize("existing", Existing)
def test_a_foreign_folder_is_never_touched(existing, tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    refused(one(), tmp_path, existing, errors.RunFolderError, "exists already|nothing")
    (tmp_path / "config.json").write_text('{"model": "someone else\'s"}')
    refused(one(), tmp_path, existing, errors.RunFolderError, "exists already|nothing")
    refused(one(), tmp_path / "thesis.tex", existing, errors.RunFolderError, "exists already|nothing")


def test_there_must_be_something_to_resume(tmp_path):
    refused(one(), tmp_path / "none", Existing.RESUME, errors.RunFolderError, "no run in")
    assert not (tmp_path / "none").exists()


def test_parts_that_do_not_fit_are_refused_before_the_folder_is_made(tmp_path):
    unfit = one(method=PhysicalTwin(), hardware=Hardware.MONARCH)
    refused(unfit, tmp_path / "run", Existing.REFUSE, errors.IncompatibleError, "no physical twin")
    assert not (tmp_path / "run").exists()


def _empty(path):
    path.write_bytes(b"")


def _text(path):
    path.write_text("not a checkpoint")


def _truncated(path):
    path.write_bytes(path.read_bytes()[:1000])


def _foreign(path):
    torch.save({"weights": torch.zeros(3)}, path)


def _code(path):
    path.write_bytes(encoded({"trial": Existing.RESUME}))


def _another_trial(path):
    path.write_bytes(encoded({**decoded(path.read_bytes()), "trial": {"method": "x", "device": "y", "seed": 0}}))


def _another_network(path):
    path.write_bytes(encoded({**decoded(path.read_bytes()), "model": {"weight": torch.zeros(3)}}))


@pytest.mark.parametrize(
    "damage",
    [_empty, _text, _truncated, _foreign, _code, _another_trial, _another_network],
)
def test_a_damaged_or_foreign_checkpoint_is_refused(damage, tmp_path):
    grid = one()
    with pytest.raises(KeyboardInterrupt):
        compare(grid, tmp_path / "run", Quiet(interrupt_at=15))
    damage(tmp_path / "run" / "checkpoint.bin")
    refused(grid, tmp_path / "run", Existing.RESUME, errors.CheckpointError, "checkpoint")


RESULT = '{"method": "paper", "device": "light-modulator", "seed": 0'


@pytest.mark.parametrize(
    "content",
    [
        *("", "[]", '{"results": 3}', '{"results": [3]}', '{"results": [{"method": []}]}', "[" * 100_000, "\udcff"),
        f'{{"results": [{RESULT}}}]}}',  # without its score
        f'{{"results": [{RESULT}, "accuracy": "high"}}]}}',
        f'{{"results": [{RESULT.replace("0", "7")}, "accuracy": 0.9}}]}}',  # of another seed
    ],
)
def test_a_damaged_summary_is_refused(content, finished):
    (finished / "summary.json").write_bytes(content.encode(errors="surrogateescape"))
    grid = one(task=Digits(epochs=1, batch_size=718))
    refused(grid, finished, Existing.RESUME, errors.RunFolderError, r"summary\.json")
