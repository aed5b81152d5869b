"""Experiments on pulsed crossbars: their methods, references, networks, costs, and runs that were killed."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from torch import nn

from blackprop.cli._main import main
from blackprop.core import Pulse
from blackprop.devices import PulsedCrossbar, cells
from blackprop.errors import ArgumentError, IncompatibleError
from blackprop.experiments import (
    Default,
    Digits,
    FrozenReference,
    Hardware,
    Imperfections,
    OracleReference,
    Trial,
    compare,
    price,
    train,
)
from blackprop.experiments.engine._training import Training
from blackprop.experiments.methods._by_pulses import PULSED_METHODS, TrainedByPulses
from blackprop.experiments.tasks._networks import Convolution, DigitNetwork, build
from blackprop.nn._layer import PhysicalLayer
from blackprop.optim import Pulsed
from support import draw
from trials import Quiet, assert_same_run, one

TASK = Digits(epochs=2, batch_size=128)
PULSED = [kind for kind in Hardware if kind.value.startswith("pulsed-")]


def devices_of(model: nn.Module) -> list[PulsedCrossbar]:
    return [m.device for m in model.modules() if isinstance(m, PhysicalLayer)]


@pytest.mark.parametrize("name", PULSED_METHODS)
def test_every_method_gets_the_tiles_that_it_needs_and_steps_by_pulses(name):
    training = Training(Trial(TASK, TrainedByPulses(name), Hardware.PULSED_10), TASK.data())
    (optimizer,) = training.optimizers
    assert isinstance(optimizer, Pulsed)
    rates = {group["lr"] for group in optimizer.param_groups}
    assert rates == {TASK.lr, (100 if name == "multi-tile" else 10) * TASK.device_lr}
    before = [device.state_dict()["weights"] for device in devices_of(training.model)]
    training.stepper.step(0)
    after = [device.state_dict()["weights"] for device in devices_of(training.model)]
    if name != "mixed-precision":  # which waits until a step of a cell is full
        assert not all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_methods_share_the_cells_of_a_seed_and_references_start_from_their_weights():
    trials = [
        Trial(TASK, method, Hardware.PULSED_RERAM) for method in (TrainedByPulses("analog-sgd"), FrozenReference())
    ]
    (crossbar, _), (matrix, _) = (devices_of(trial.model()) for trial in trials)
    gains = crossbar.theta.draw(torch.Generator())
    crossbar.program(gains)
    start = matrix.theta.draw(torch.Generator())
    assert torch.equal(crossbar.read(torch.eye(64)).mT.flatten(), start)
    main_tile = devices_of(Trial(TASK, TrainedByPulses("tiki-taka"), Hardware.PULSED_RERAM).model())[0]
    assert main_tile.theta.size == 2
    assert main_tile.cell == cells.RERAM_SB


def test_methods_for_pulses_and_devices_without_do_not_meet():
    with pytest.raises(IncompatibleError, match=r"`tiki-taka` moves cells by pulses, and Matrix.* does not declare"):
        Trial(TASK, TrainedByPulses("tiki-taka"), Hardware.MATRIX).model()
    with pytest.raises(ArgumentError, match="must be one of analog-sgd, mixed-precision"):
        TrainedByPulses("adam")


@pytest.mark.parametrize("kind", PULSED, ids=lambda kind: kind.value)
def test_the_default_learns_the_digits_on_every_kind_of_pulsed_cell(kind):
    """Beside frozen, and with its pulses in the result."""
    task = Digits(epochs=4)
    scores = {m.name: train(Trial(task, m, kind), task.data()) for m in (FrozenReference(), Default())}
    gain = 0.1 if kind is Hardware.PULSED_HFO2 else 0.4  # four states, no two cells alike: the hardest of them
    assert scores["default"]["accuracy"] > scores["frozen"]["accuracy"] + gain
    assert scores["default"]["actions"]["pulse"] > 0
    assert "actions" not in scores["frozen"]


def test_the_price_counts_rows_programmings_and_an_estimate_of_the_pulses():
    task = Digits(epochs=2, batch_size=128)
    for name in ("analog-sgd", "tiki-taka", "mixed-precision"):
        trial = Trial(task, TrainedByPulses(name), Hardware.PULSED_ECRAM)
        told, found = price(trial, task.data()).plain(), train(trial, task.data())
        for what in ("rows", "programmings"):
            assert {k: v for k, v in told[what].items() if k != "surrogate"} == {
                k: v for k, v in found[what].items() if k != "surrogate"
            }
        assert 0 < told["rows"]["surrogate"] <= 10 * 22  # at most the rank of ten cotangents a step
        assert told["actions"]["pulse"] > 0


def test_imperfections_wrap_the_tiles_that_a_method_needs():
    trial = Trial(
        TASK, TrainedByPulses("tiki-taka"), Hardware.PULSED_ECRAM, imperfections=Imperfections(read_noise=0.01)
    )
    (layer, _) = (m for m in trial.model().modules() if isinstance(m, PhysicalLayer))
    assert layer.device.theta.size == 2
    assert layer.device.declaration.has(Pulse)


@pytest.mark.parametrize("name", ["agad", "multi-tile", "mixed-precision"])
def test_a_run_killed_within_an_epoch_and_resumed_is_bit_identical_cells_included(name, tmp_path):
    grid = dataclasses.replace(one(TrainedByPulses(name), Hardware.PULSED_HFO2, Digits(epochs=3, batch_size=256)))
    compare(grid, tmp_path / "whole", Quiet())
    with pytest.raises(KeyboardInterrupt):
        compare(grid, tmp_path / "killed", Quiet(interrupt_at=8))
    from blackprop.experiments import Existing

    compare(grid, tmp_path / "killed", Quiet(), Existing.RESUME)
    assert_same_run(tmp_path / "whole", tmp_path / "killed")


def test_the_published_networks_have_their_devices():
    places: list[tuple[int, int]] = []

    def layer(d_in: int, d_out: int) -> nn.Module:
        places.append((d_in, d_out))
        return nn.Linear(d_in, d_out)

    x = torch.rand(3, 784)
    assert build(DigitNetwork.PERCEPTRON, (784, 128, 256), layer, 0)(x).shape == (3, 10)
    assert places == [(784, 256), (256, 128), (128, 10)]
    places.clear()
    assert build(DigitNetwork.LENET, (784, 128, 256), layer, 0)(x).shape == (3, 10)
    assert places == [(25, 16), (400, 32), (512, 128), (128, 10)]
    with pytest.raises(ArgumentError, match="lenet needs images of 28×28 pixels"):
        Digits(network=DigitNetwork.LENET)


def test_a_convolution_of_one_layer_is_that_of_torch():
    network = Convolution(2, 3, lambda d_in, d_out: nn.Linear(d_in, d_out, bias=False))
    x = draw(4, 2, 9, 9)
    wanted = nn.functional.conv2d(x, network.layer.weight.view(3, 2, 5, 5))
    torch.testing.assert_close(network(x), wanted, atol=1e-5, rtol=1e-5)


def test_the_command_compares_pulsed_methods_beside_the_references(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments = ["compare", "digits", "--devices", "pulsed-10-states", "--methods", "tiki-taka", "mixed-precision"]
    arguments += ["--epochs", "1", "--network", "perceptron", "--seeds", "1", "--run-dir", "run"]
    assert main(arguments) == 0
    results = json.loads((tmp_path / "run" / "summary.json").read_text())["results"]
    assert [result["method"] for result in results] == ["oracle", "frozen", "tiki-taka", "mixed-precision"]
    assert all(result["network"] == "perceptron" for result in results)


def test_the_references_of_other_devices_are_as_they_were():
    for reference in (OracleReference(), FrozenReference()):
        (first, _) = devices_of(Trial(TASK, reference, Hardware.MICRORING).model())
        assert type(first).__name__ == "Microring"
