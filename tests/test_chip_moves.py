"""A chip that moves while it is calibrated is noticed, and one that does not is not suspected."""

from __future__ import annotations

import math

import pytest
import torch

from blackprop.core import run
from blackprop.devices import Chip, Drifting, Noisy, chips
from blackprop.errors import CalibrationWarning
from blackprop.twins import CalibratedChip, Precision


def calibrated(device, seed=0):
    surrogate = CalibratedChip(device, precision=Precision(rows=16, iterations=0))
    surrogate.bind(device.declaration)
    surrogate.input_rms = math.sqrt(8)
    generator = torch.Generator().manual_seed(seed)
    run(surrogate.start(device.theta.draw(generator), generator), device.measure)
    return surrogate


@pytest.mark.parametrize("design", [chips.Rectangular(), chips.Rectangular(3)])
@pytest.mark.parametrize("seed", range(2))
def test_a_chip_that_walks_is_noticed(design, seed):
    chip = Noisy(Drifting(Chip(design, 6, 6, seed=seed), per_programming=0.01, seed=seed), read=0.01, seed=seed)
    surrogate = calibrated(chip, seed)
    assert bool(surrogate.moved)
    assert surrogate.diagnosis()["drift"] > 0.02
    x = torch.zeros(4, 6)
    with pytest.warns(CalibrationWarning, match="moves while it is calibrated"):
        surrogate.observe(x, x)


@pytest.mark.parametrize("noise", [0.0, 0.01, 0.1])
@pytest.mark.parametrize("outputs", [2, 8])
def test_a_chip_that_stands_is_not_suspected(noise, outputs):
    for seed in range(2):
        chip = Chip(chips.Rectangular(), 8, outputs, modes=8, seed=seed)
        surrogate = calibrated(Noisy(chip, read=noise, seed=seed) if noise else chip, seed)
        assert not bool(surrogate.moved)


def again(surrogate, device):
    generator = torch.Generator().manual_seed(5)
    run(surrogate.start(device.theta.draw(generator), generator), device.measure)


def test_a_worse_calibration_does_not_replace_the_one_that_is_held():
    chip = Chip(chips.Rectangular(), 6, 6, seed=1)
    surrogate = calibrated(Noisy(chip, read=1e-3))
    held = surrogate.model.offset.clone()
    again(surrogate, Noisy(chip, read=0.2))
    torch.testing.assert_close(surrogate.model.offset, held, rtol=0, atol=0)
    assert float(surrogate.noise) > 0.1  # its verdict is of the new readings
    assert float(surrogate.held_out) < 0.3


def test_a_chip_that_has_moved_is_calibrated_anew():
    chip = Chip(chips.Rectangular(), 6, 6, seed=1)
    surrogate = calibrated(Noisy(chip, read=1e-3))
    chip.build.offset[:8] += 1.0
    again(surrogate, Noisy(chip, read=1e-3))
    x = torch.randn(16, 6, generator=torch.Generator().manual_seed(2))
    theta = 2 * math.pi * torch.rand(4, 30, generator=torch.Generator().manual_seed(3))
    y = chip.transfer(x, theta)
    assert float((surrogate.model(x, theta) - y).norm() / y.norm()) < 0.02
