"""Methods that ask for the loss alone, in the loop that all recipes share."""

from __future__ import annotations

import pytest
from torch import nn

import blackprop as bp
from blackprop import errors
from blackprop.cli import _main as cli
from blackprop.experiments import Callback, Digits, Existing, Grid, Hardware, Perturbative, Trial, compare, price
from blackprop.experiments.engine._callbacks import Callbacks
from blackprop.experiments.engine._training import Training
from blackprop.experiments.methods._by_loss import Homodyne, Mixed, Multiplexed, Spsa, behind
from blackprop.experiments.tasks._networks import DigitNetwork

TASK = Digits(network=DigitNetwork.HYBRID, epochs=2, batch_size=256, lr=1e-2)
METHODS = (Perturbative(), Mixed(), Multiplexed(), Spsa())


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_its_price_is_what_it_asks(method, tmp_path):
    cell = Trial(TASK, method, Hardware.LIGHT_MODULATOR)
    expected = price(cell, TASK.data()).plain()
    (result,) = compare(Grid(TASK, (method,), (Hardware.LIGHT_MODULATOR,), (0,)), tmp_path / "run", Callbacks(()))[
        "results"
    ]
    for name in ("rows", "programmings"):
        assert result[name] == expected[name]


def test_homodyne_is_priced_before_anybody_asks_for_it():
    cell = Trial(TASK, Homodyne(), Hardware.LIGHT_MODULATOR)
    parameters = sum(p.numel() for p in cell.model().parameters())
    assert price(cell, TASK.data()).plain()["programmings"]["forward"] == 4 * parameters * TASK.steps(1437)


def test_a_run_that_is_interrupted_goes_on_bit_for_bit(tmp_path):
    grid = Grid(TASK, (Perturbative(), Mixed()), (Hardware.MICRORING,), (0,))
    whole = compare(grid, tmp_path / "whole", Callbacks(()))

    class Interrupts(Callback):
        def evaluated(self, line):
            if line["method"] == "mixed" or line["step"] < TASK.steps(1437):
                raise KeyboardInterrupt

    interrupted = 0
    while interrupted < 3:
        existing = Existing.RESUME if interrupted else Existing.REFUSE
        with pytest.raises(KeyboardInterrupt):
            compare(grid, tmp_path / "cut", Callbacks((Interrupts(),)), existing)
        interrupted += 1
    again = compare(grid, tmp_path / "cut", Callbacks(()), Existing.RESUME)
    assert again["results"] == whole["results"]


def test_mixed_training_takes_what_is_known_exactly():
    """On digits with most of the network behind the device, by far the better for the same passes."""
    task = Digits(network=DigitNetwork.HYBRID, epochs=6, batch_size=64, lr=1e-2)
    scores = {}
    for method in (Perturbative(), Mixed()):
        training = Training(Trial(task, method, Hardware.LIGHT_MODULATOR), task.data())
        while not training.done:
            training.run_segment(Callbacks(()))
        scores[method.name] = training.score
    assert scores["mixed"] > 0.8
    assert scores["mixed"] > scores["perturbative"] + 0.2


def test_what_lies_behind_the_devices_of_a_chain():
    layer = bp.PhysicalLayer(bp.devices.Matrix(4, 4), bias=True)
    model = nn.Sequential(nn.Linear(3, 4), layer, nn.ReLU(), nn.Linear(4, 2))
    assert [id(p) for p in behind(model)] == [id(p) for p in (layer.gain, layer.bias, *model[3].parameters())]
    assert behind(nn.Sequential(nn.Linear(3, 4)))
    with pytest.raises(errors.IncompatibleError, match="behind"):
        behind(nn.ModuleList([model]))


def test_the_command_knows_them(tmp_path, capsys):
    options = ["--network", "hybrid", "--epochs", "1", "--batch-size", "512", "--method", "spsa"]
    assert cli.main(["train", "digits", *options, "--run-dir", str(tmp_path / "run")]) == 0
    assert "spsa" in capsys.readouterr().out
