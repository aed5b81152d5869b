"""A chip that moves while it is calibrated is noticed, and one that does not is not suspected."""

from __future__ import annotations

import math

import pytest
import torch

import blackprop as bp
from blackprop.core import run
from blackprop.core._metered import metered
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


@pytest.mark.parametrize("rate", [1e-3, 3e-3, 0.03, 0.1, 0.3])
def test_no_speed_leads_to_a_wrong_build_without_a_word(rate):
    for seed in range(2):
        chip = Chip(chips.Rectangular(), 6, 6, seed=seed)
        drifting = Drifting(chip, per_programming=rate, seed=seed)
        surrogate = calibrated(Noisy(drifting, read=3e-3, seed=seed), seed)
        theta = chip.theta.draw(torch.Generator().manual_seed(7))
        x = torch.randn(32, 6, generator=torch.Generator().manual_seed(8))
        y = chip.transfer(x, theta + drifting.offset)
        left = float((surrogate.model(x, theta) - y).norm() / y.norm())
        assert left < 0.02 or bool(surrogate.moved) or not bool(surrogate.accepted)


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


def measured(surrogate, device):
    ledger = bp.Ledger()
    generator = torch.Generator().manual_seed(5)
    run(surrogate.start(device.theta.draw(generator), generator), metered(device, ledger))
    return ledger


def away(chip, surrogate):
    x = torch.randn(16, 6, generator=torch.Generator().manual_seed(2))
    theta = 2 * math.pi * torch.rand(8, chip.theta.size, generator=torch.Generator().manual_seed(3))
    y = chip.transfer(x, theta)
    return float((surrogate.model(x, theta) - y).norm() / y.norm())


def turned(chip, columns, size, seed=0):
    generator = torch.Generator().manual_seed(seed)
    for column in columns:
        for place in (0, 1):
            which = 2 * chip.layout.members[column] + place
            chip.build.offset[which] += size * (2 * torch.rand(len(which), generator=generator).double() - 1)


@pytest.mark.parametrize(("columns", "size"), [([2], math.pi), ([1, 4], 1.0)])
def test_columns_that_have_moved_are_fitted_alone(columns, size):
    chip = Chip(chips.Rectangular(), 6, 6, seed=1)
    surrogate = calibrated(Noisy(chip, read=3e-3))
    held = surrogate.model.offset.detach().clone()
    turned(chip, columns, size)
    assert away(chip, surrogate) > 0.4
    ledger = measured(surrogate, Noisy(chip, read=3e-3))
    assert away(chip, surrogate) < 0.01
    assert bool(surrogate.accepted)
    assert (ledger.total_programmings, ledger.total_rows) == (28, 20 * 16 + 8 * 16)
    moved = surrogate.model.offset.detach() - held
    blocks = torch.cat([chip.layout.members[column] for column in columns])
    which = torch.zeros(chip.theta.size, dtype=torch.bool)
    which[2 * blocks] = which[2 * blocks + 1] = True
    assert float(moved[which].abs().max()) > 20 * float(moved[~which].abs().max())


def test_a_chip_that_stands_keeps_its_calibration():
    chip = Chip(chips.Rectangular(), 6, 6, seed=1)
    surrogate = calibrated(Noisy(chip, read=3e-3))
    held = surrogate.model.offset.detach().clone()
    assert measured(surrogate, Noisy(chip, read=3e-3)).total_programmings == 28
    torch.testing.assert_close(surrogate.model.offset, held, rtol=0, atol=0)


def test_small_changes_everywhere_are_found_in_powers_too():
    chip = Chip(chips.Rectangular(3), 4, 4, seed=1, readout=chips.Power())
    surrogate = CalibratedChip(chip, precision=Precision(rows=32, iterations=60))
    surrogate.bind(chip.declaration)
    surrogate.input_rms = 2.0
    measured(surrogate, Noisy(chip, read=3e-3))
    turned(chip, range(4), 0.2)
    ledger = measured(surrogate, Noisy(chip, read=3e-3))
    assert ledger.total_programmings == 28
    assert float(surrogate.held_out) < 6e-3


def test_another_chip_is_calibrated_as_a_whole():
    surrogate = calibrated(Noisy(Chip(chips.Rectangular(), 6, 6, seed=1), read=3e-3))
    chip = Chip(chips.Rectangular(), 6, 6, splitter=0.1, seed=2)
    ledger = measured(surrogate, Noisy(chip, read=3e-3))
    assert ledger.total_programmings == 28 + surrogate.programmings
    assert away(chip, surrogate) < 0.03
