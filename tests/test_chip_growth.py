"""Chips of all designs and readouts, calibrated layer by layer."""

from __future__ import annotations

import math

import pytest
import torch

from blackprop.core import Purpose, price, run
from blackprop.devices import Chip, Noisy, chips
from blackprop.errors import CalibrationWarning, IncompatibleError
from blackprop.twins import CalibratedChip, Precision

RECTANGULAR, TRIANGULAR, BUTTERFLY = chips.Rectangular, chips.Triangular, chips.Butterfly
READOUTS = {"field": None, "power": chips.Power(), "balanced": chips.Balanced()}


def calibrated(device, precision=None, seed=0):
    surrogate = CalibratedChip(device, precision=precision)
    surrogate.bind(device.declaration)
    surrogate.input_rms = math.sqrt(device.declaration.d_in)
    generator = torch.Generator().manual_seed(seed)
    run(surrogate.start(device.theta.draw(generator).double(), generator), device.measure)
    return surrogate


def compared(chip, surrogate, seed=9):
    """The relative residual at fresh settings anywhere, and the cosine of ∂L/∂θ there."""
    generator = torch.Generator().manual_seed(seed)
    top = 2 * math.pi if chip.theta.high is None else chip.theta.high
    theta = top * torch.rand(8, chip.theta.size, generator=generator)
    x, target = (torch.randn(16, *shape, generator=generator) for shape in (chip.in_shape, chip.out_shape))
    y, gradients = chip.transfer(x, theta), []
    for transfer in (chip.transfer, surrogate.model):
        at = theta.clone().requires_grad_()
        found = transfer(x, at)
        gradients.append(torch.autograd.grad(found, at, y - target)[0].flatten())
    found = surrogate.model(x, theta)
    return float((found - y).norm() / y.norm()), float(torch.cosine_similarity(*gradients, dim=0))


def make(design, modes, readout, seed, **options):
    readout = READOUTS[readout]
    ports = 1 if readout is None else readout.ports_each
    return Chip(design, modes, modes // ports, modes=modes, seed=seed, readout=readout, **options)


@pytest.mark.parametrize("readout", READOUTS)
@pytest.mark.parametrize(
    "design",
    [RECTANGULAR(3), TRIANGULAR(), TRIANGULAR(3), BUTTERFLY(3)],
    ids=lambda d: f"{type(d).__name__}{d.splitters}",
)
def test_every_design_and_readout_with_one_percent_noise(design, readout):
    chip = make(design, 8, readout, 0)
    surrogate = calibrated(Noisy(chip, read=0.01), Precision(rows=48))
    residual, cosine = compared(chip, surrogate)
    assert residual < 0.012
    assert cosine > 0.999
    assert float(surrogate.held_out) < 0.02
    assert bool(surrogate.accepted)


@pytest.mark.parametrize("readout", ["power", "balanced"])
def test_powers_behind_a_rectangular_mesh(readout):
    chip = make(RECTANGULAR(), 8, readout, 1)
    residual, cosine = compared(chip, calibrated(Noisy(chip, read=0.01), Precision(rows=48)))
    assert residual < 0.01
    assert cosine > 0.999


@pytest.mark.parametrize("readout", ["power", "balanced"])
def test_powers_behind_a_butterfly_of_two_splitters_are_refused(readout):
    with pytest.raises(IncompatibleError, match="a readout of fields"):
        calibrated(make(BUTTERFLY(), 8, readout, 0))


def test_fields_behind_a_butterfly():
    chip = make(BUTTERFLY(), 8, "field", 0)
    assert compared(chip, calibrated(Noisy(chip, read=0.01)))[0] < 0.01


@pytest.mark.parametrize(("splitters", "limit"), [(2, 1e-3), (3, 2e-5)])
def test_without_noise_the_growth_alone_is_close(splitters, limit):
    chip = Chip(TRIANGULAR(splitters), 6, 6, seed=2)
    surrogate = calibrated(chip, Precision(rows=24, iterations=0))
    assert compared(chip, surrogate)[0] < limit


@pytest.mark.parametrize(("n_in", "n_out"), [(5, 8), (8, 4), (6, 5)])
def test_ports_that_are_not_wired(n_in, n_out):
    chip = Chip(RECTANGULAR(3), n_in, n_out, modes=8, seed=1)
    residual, cosine = compared(chip, calibrated(Noisy(chip, read=0.01), Precision(rows=32)))
    assert residual < 0.02
    assert cosine > 0.999


def test_few_outputs_of_a_rectangular_mesh_for_less_than_twice_the_programmings():
    chip = Chip(RECTANGULAR(), 16, 5, modes=16, seed=0)
    surrogate = calibrated(Noisy(chip, read=0.01), Precision(rows=64, repeats=2))
    assert surrogate.programmings < 2 * (2 * 16 + 19)
    residual, cosine = compared(chip, surrogate)
    assert residual < 0.05
    assert cosine > 0.99


def test_detectors_that_differ_and_have_a_dark_level():
    readout = chips.Power(responsivity=0.1, dark=0.1)
    chip = Chip(RECTANGULAR(3), 6, 6, readout=readout, seed=3)
    surrogate = calibrated(chip, Precision(rows=40))
    assert compared(chip, surrogate)[0] < 2e-3
    relative = surrogate.model.responsivity / chip.build.responsivity
    assert float((relative / relative.mean() - 1).abs().max()) < 5e-3
    assert surrogate.model.dark.double().numpy() == pytest.approx(chip.build.dark.numpy(), abs=0.02)


@pytest.mark.parametrize("readout", READOUTS)
def test_heaters_losses_and_crosstalk(readout):
    chip = make(RECTANGULAR(3), 6, readout, 0, heaters=chips.Heaters(), losses=chips.Losses(port=1.0))
    residual, cosine = compared(chip, calibrated(Noisy(chip, read=0.01)))
    assert residual < 0.02
    assert cosine > 0.999


@pytest.mark.parametrize("readout", READOUTS)
@pytest.mark.parametrize("splitters", [2, 3])
def test_the_price_is_known_before(readout, splitters):
    chip = make(TRIANGULAR(splitters), 6, readout, 0)
    precision = Precision(rows=20, repeats=2, more=3)
    surrogate = CalibratedChip(chip, precision=precision)

    def start():
        each = CalibratedChip(chip, precision=precision)
        each.bind(chip.declaration)
        generator = torch.Generator().manual_seed(0)
        return each.start(chip.theta.draw(generator), generator)

    ledger = price(start, chip)
    assert ledger.total_programmings == ledger.programmings[Purpose.CALIBRATE] == surrogate.programmings
    assert ledger.total_rows == surrogate.total_rows


def test_a_tenth_of_the_rows_that_every_gram_matrix_takes():
    modes = 32
    surrogate = CalibratedChip(Chip(RECTANGULAR(), modes, modes, readout=chips.Power()))
    assert surrogate.total_rows < 174 * modes * (modes + 1) / 2 / 10


def test_another_design_is_not_believed():
    """The model's blocks have three splitters, the chip's have two, and the check says so."""
    other = Chip(TRIANGULAR(), 6, 6, seed=0)
    surrogate = CalibratedChip(Chip(TRIANGULAR(3), 6, 6), precision=Precision(rows=24))
    surrogate.bind(other.declaration)
    surrogate.input_rms = 2.0
    generator = torch.Generator().manual_seed(0)
    run(surrogate.start(other.theta.draw(generator), generator), other.measure)
    assert not bool(surrogate.accepted)
    x = torch.randn(4, 6)
    with pytest.warns(CalibrationWarning, match="unexplained"):
        surrogate.observe(x, torch.randn(4, 6))
