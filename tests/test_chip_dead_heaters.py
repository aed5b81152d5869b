"""Phase shifters that do not answer to their setting: a calibration names them, and training goes around them."""

from __future__ import annotations

import math

import pytest
import torch

import blackprop as bp
from blackprop.core import run
from blackprop.devices import Chip, Noisy, chips
from blackprop.errors import CalibrationWarning
from blackprop.estimators import FromSurrogate
from blackprop.twins import CalibratedChip, Precision


def broken(design, dead, heaters=None, seed=0):
    """A chip of 6 modes of which some shifters stay at the phase that they have."""
    chip = Chip(design, 6, 6, seed=seed, heaters=heaters)
    chip.build.slopes[dead] = -1.0
    return chip


def calibrated(chip, noise=0.01, precision=None):
    device = Noisy(chip, read=noise)
    surrogate = CalibratedChip(device, precision=precision)
    surrogate.bind(device.declaration)
    surrogate.input_rms = math.sqrt(6)
    generator = torch.Generator().manual_seed(0)
    run(surrogate.start(chip.theta.draw(generator).double(), generator), device.measure)
    return surrogate


def residual(chip, surrogate):
    generator = torch.Generator().manual_seed(9)
    top = 2 * math.pi if chip.heaters is None else chip.heaters.v_max
    theta = top * torch.rand(8, chip.theta.size, generator=generator)
    x = torch.randn(16, 6, generator=generator)
    y = chip.transfer(x, theta)
    return float((surrogate.model(x, theta) - y).norm() / y.norm())


@pytest.mark.parametrize(
    ("design", "dead"),
    [
        (chips.Rectangular(), [13]),
        (chips.Rectangular(), [1, 25]),
        (chips.Rectangular(), [20, 21]),
        (chips.Rectangular(3), [13, 20]),
    ],
)
def test_dead_shifters_are_named_and_the_rest_is_calibrated(design, dead):
    chip = broken(design, dead)
    surrogate = calibrated(chip)
    assert surrogate.dead.nonzero().flatten().tolist() == dead
    assert residual(chip, surrogate) < 0.015
    assert bool(surrogate.accepted)
    assert f"dead={', '.join(map(str, dead))}" in repr(surrogate)
    x = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
    surrogate.twin.theta.copy_(chip.theta.draw(torch.Generator().manual_seed(1)))
    grad = surrogate.grad_theta(x, torch.ones(4, 6))
    assert not bool(grad[dead].any())
    assert int((grad != 0).sum()) == chip.theta.size - len(dead)
    with pytest.warns(CalibrationWarning, match=f"do not answer to their setting: {dead[0]}"):
        surrogate.observe(x, chip.transfer(x, surrogate.twin.theta))
    surrogate.observe(x, chip.transfer(x, surrogate.twin.theta))  # said once


@pytest.mark.parametrize("dead", [[13], [4, 20]])
def test_dead_heaters_of_unknown_slopes_with_crosstalk(dead):
    chip = broken(chips.Rectangular(), dead, chips.Heaters())
    surrogate = calibrated(chip)
    assert surrogate.dead.nonzero().flatten().tolist() == dead
    assert residual(chip, surrogate) < 0.01
    assert bool((surrogate.model.slopes[dead] == -1).all())


@pytest.mark.parametrize(("seed", "noise"), [(0, 0.01), (1, 0.05)])
def test_no_shifter_of_a_whole_chip_is_called_dead(seed, noise):
    chip = broken(chips.Rectangular(3), [], seed=seed)
    surrogate = calibrated(chip, noise, Precision(rows=16, iterations=0))
    assert not bool(surrogate.dead.any())
    assert not surrogate.model.slopes.any()
    assert "dead" not in repr(surrogate)


def test_a_layer_is_trained_around_them():
    chip = broken(chips.Rectangular(3), [13, 20])
    surrogate = CalibratedChip(chip, precision=Precision(rows=16))
    layer = bp.PhysicalLayer(chip, FromSurrogate(surrogate), surrogate, generator=torch.Generator().manual_seed(0))
    x = torch.randn(64, 6, generator=torch.Generator().manual_seed(1))
    goal = chip.transfer(x, chip.theta.draw(torch.Generator().manual_seed(2)))
    optimizer, losses = torch.optim.Adam(layer.parameters(), lr=0.05), []
    before = layer.theta.detach().clone()
    for step in range(100):
        optimizer.zero_grad()
        if step:
            loss = (layer(x) - goal).square().mean()
        else:
            with pytest.warns(CalibrationWarning, match="2 of 30 phase shifters"):
                loss = (layer(x) - goal).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.1 * losses[0]
    still = (layer.theta.detach() == before).nonzero().flatten().tolist()
    assert still == [13, 20]
