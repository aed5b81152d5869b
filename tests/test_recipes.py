"""Trials: what is trained is what is declared and it costs what was priced."""

from __future__ import annotations

import json
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
    FrozenReference,
    Grid,
    Hardware,
    Imperfections,
    OracleReference,
    Paper,
    Trial,
    compare,
    price,
)
from blackprop.experiments.comparison._grid import with_references
from blackprop.experiments.comparison._summary import gap_closed
from blackprop.experiments.engine._bill import Bill
from blackprop.experiments.engine._execution import ORDINARY
from blackprop.experiments.records._run_folder import RunFolder
from blackprop.experiments.tasks._networks import DigitNetwork
from trials import QUICK, ROUGH, SMALL, Quiet, assert_same, one, run


@pytest.fixture(scope="module")
def data():
    return Digits().data()


# The task and its cells.


def test_the_split_is_fixed_stratified_and_scaled(data):
    assert data.x_train.shape == (1437, 64)
    assert data.x_test.shape == (360, 64)
    assert float(data.x_train.min()) == 0
    assert float(data.x_train.max()) == 1
    assert data.y_test.bincount().min() >= 34
    assert torch.equal(data.x_test, Digits().data().x_test)


@pytest.mark.parametrize("network", [DigitNetwork.PHYSICAL, DigitNetwork.HYBRID])
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
        (lambda: Grid(QUICK, (SMALL, Paper()), (Hardware.MATRIX,)), "without repetition"),
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


@pytest.mark.parametrize("network", [DigitNetwork.PHYSICAL, DigitNetwork.HYBRID])
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
    with pytest.raises(errors.ArgumentError, match="cannot be split"):
        run(replace(trial, execution=Execution(accumulate=129)), data)
