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
