"""Chips with faults: each is served, or named and refused with a remedy."""

from __future__ import annotations

import math

import pytest
import torch

import blackprop as bp
from blackprop.core import run
from blackprop.core._metered import metered
from blackprop.devices import Chip, Noisy, Quantised, chips
from blackprop.errors import CalibrationWarning, IncompatibleError
from blackprop.twins import CalibratedChip, Precision

READOUTS = {"field": None, "power": chips.Power(), "balanced": chips.Balanced()}
FIELD, POWER = (chips.Rectangular(), "field"), (chips.Rectangular(3), "power")
MODES = 4


def make(design, readout, seed=0, **options):
    readout = READOUTS[readout]
    ports = 1 if readout is None else readout.ports_each
    return Chip(design, MODES, MODES // ports, modes=MODES, seed=seed, readout=readout, **options)


def calibrated(device, precision=None, seed=0, ledger=None):
    surrogate = CalibratedChip(device, precision=precision)
    surrogate.bind(device.declaration)
    surrogate.input_rms = math.sqrt(device.declaration.d_in)
    generator = torch.Generator().manual_seed(seed)
    measure = device.measure if ledger is None else metered(device, ledger)
    run(surrogate.start(device.theta.draw(generator).double(), generator), measure)
    return surrogate


def residual(chip, surrogate):
    generator = torch.Generator().manual_seed(9)
    top = 2 * math.pi if chip.heaters is None else chip.heaters.v_max
    theta = top * torch.rand(12, chip.theta.size, generator=generator)
    x = torch.randn(16, *chip.in_shape, generator=generator)
    y = chip.transfer(x, theta)
    return float((surrogate.model(x, theta) - y).norm() / y.norm())


def said(surrogate):
    x, y = torch.zeros(2, surrogate.spec.d_in), torch.zeros(2, surrogate.spec.d_out)
    with pytest.warns(CalibrationWarning) as found:
        surrogate.observe(x, y)
    return " ".join(str(each.message) for each in found)


@pytest.mark.parametrize(("parts", "reach"), [(FIELD, 1.6), (POWER, 1.2)])
def test_heaters_of_less_than_a_turn(parts, reach):
    chip = make(*parts, heaters=chips.Heaters(v_max=2 * math.sqrt(reach)))
    surrogate = calibrated(Noisy(chip, read=0.01), Precision(rows=32, repeats=2, more=16, iterations=80))
    assert residual(chip, surrogate) < 0.015
    assert bool(surrogate.accepted)
    assert not bool(surrogate.dead.any())


@pytest.mark.parametrize("readout", READOUTS)
def test_heaters_of_too_little_are_refused_with_the_least_that_serves(readout):
    chip = make(chips.Rectangular(), readout, heaters=chips.Heaters(v_max=2.0))  # π
    with pytest.raises(IncompatibleError, match=r"heaters that reach a phase of 1\.15π"):
        calibrated(chip)


def test_an_input_without_light_is_named_and_the_rest_is_calibrated():
    chip = make(*FIELD)
    chip.build.loss_in[2] = 40.0
    surrogate = calibrated(Noisy(chip, read=0.01), Precision(rows=32, iterations=60))
    assert residual(chip, surrogate) < 0.015
    assert "no light at input 2:" in said(surrogate)
    x = torch.randn(4, MODES, generator=torch.Generator().manual_seed(0))
    assert float(surrogate.grad_x(x, torch.ones(4, MODES))[:, 2].abs().max()) < 1e-9


def test_an_input_without_light_in_front_of_powers_is_refused_by_its_number():
    chip = make(*POWER)
    chip.build.loss_in[2] = 40.0
    surrogate = calibrated(Noisy(chip, read=0.01), Precision(rows=32, iterations=0))
    assert not bool(surrogate.accepted)
    assert "no light at input 2: the calibration is refused" in said(surrogate)


@pytest.mark.parametrize(("design", "readout"), [(chips.Triangular(), "field"), POWER])
def test_an_output_without_light_is_named_and_the_rest_is_calibrated(design, readout):
    chip = make(design, readout)
    chip.build.loss_out[1] = 40.0
    surrogate = calibrated(Noisy(chip, read=0.01), Precision(rows=32, iterations=60))
    assert residual(chip, surrogate) < 0.02
    assert "no light at output 1:" in said(surrogate)
    assert not bool(surrogate.dead.any())


def overdriven(design, readout, top):
    """A converter that ends at `top` times the root mean square of a reading."""
    chip = make(design, readout)
    generator = torch.Generator().manual_seed(3)
    y = chip.transfer(torch.randn(64, MODES, generator=generator), chip.theta.draw(generator))
    end = top * float(y.square().mean().sqrt())
    return chip, Quantised(Noisy(chip, read=0.01), output_bits=12, output_range=(-end, end))


@pytest.mark.parametrize(("parts", "top"), [(FIELD, 2.5), (POWER, 2.5)])
def test_rows_that_overdrive_a_detector_are_left_out(parts, top):
    chip, device = overdriven(*parts, top)
    surrogate = calibrated(device, Precision(rows=48, iterations=60))
    assert "of 48 rows overdrive a detector" in said(surrogate)
    assert residual(chip, surrogate) < 0.02


@pytest.mark.parametrize("parts", [FIELD, POWER])
def test_detectors_that_most_rows_overdrive_are_refused(parts):
    surrogate = calibrated(overdriven(*parts, 1.0)[1])
    assert not bool(surrogate.accepted)
    text = said(surrogate)
    assert "the calibration is refused. Scale the inputs down" in text
    assert "inf" not in text


@pytest.mark.parametrize("parts", [FIELD, POWER])
@pytest.mark.parametrize("bits", [4, 8])
def test_coarse_converters_are_not_taken_for_overdriven_ones(parts, bits):
    surrogate = calibrated(Quantised(make(*parts), output_bits=bits), Precision(rows=24, iterations=0))
    assert not surrogate._faults


def test_dead_shifters_in_front_of_powers_are_named_and_the_rest_is_calibrated():
    chip, ledger, dead = make(*POWER), bp.Ledger(), [7]
    chip.build.slopes[dead] = -1.0
    surrogate = calibrated(Noisy(chip, read=0.01), Precision(rows=32, iterations=40), ledger=ledger)
    assert surrogate.dead.nonzero().flatten().tolist() == dead
    assert residual(chip, surrogate) < 0.02
    assert f"do not answer to their setting: {dead[0]}" in said(surrogate)
    assert 0 < ledger.total_programmings - surrogate.programmings < 6 * MODES


@pytest.mark.parametrize("readout", ["field", "power"])
def test_a_chip_without_faults_costs_what_was_stated(readout):
    chip, ledger = make(chips.Rectangular(3), readout), bp.Ledger()
    surrogate = calibrated(Noisy(chip, read=0.01), Precision(rows=32, iterations=40), ledger=ledger)
    assert ledger.total_programmings == surrogate.programmings
    assert ledger.total_rows == surrogate.total_rows
    assert not bool(surrogate.dead.any())
    assert not surrogate._faults
