"""Chips calibrated in closed form: offsets anywhere are found, and readings that say nothing are not believed."""

from __future__ import annotations

import math

import pytest
import torch

import blackprop as bp
from blackprop.core import Purpose, price, run
from blackprop.devices import Chip, Noisy, as_built, chips
from blackprop.errors import ArgumentError, CalibrationWarning, IncompatibleError
from blackprop.estimators import FromSurrogate
from blackprop.testing import check_surrogate
from blackprop.twins import CalibratedChip, ChipTwin, Precision


def calibrated(device, precision=None, seed=0):
    surrogate = CalibratedChip(device, precision=precision)
    surrogate.bind(device.declaration)
    surrogate.input_rms = math.sqrt(device.declaration.d_in)
    generator = torch.Generator().manual_seed(seed)
    theta = device.theta.draw(generator).double()
    run(surrogate.start(theta, generator), device.measure)
    return surrogate


def compared(chip, surrogate, seed=9):
    """The relative residual at fresh settings anywhere, and the cosines of both gradients there."""
    generator = torch.Generator().manual_seed(seed)
    spec = chip.declaration
    top = 2 * math.pi if spec.theta.high is None else spec.theta.high
    theta = top * torch.rand(8, spec.theta.size, generator=generator)
    x, target = (torch.randn(16, n, generator=generator) for n in (spec.d_in, spec.d_out))
    y = chip.transfer(x, theta)
    found = surrogate.model(x, theta)
    gradients = []
    for transfer in (chip.transfer, surrogate.model):
        at, rows = theta.clone().requires_grad_(), x.clone().requires_grad_()
        gradients.append(torch.autograd.grad(transfer(rows, at), (at, rows), y - target))
    cosines = [float(torch.cosine_similarity(a.flatten(), b.flatten(), dim=0)) for a, b in zip(*gradients, strict=True)]
    return float((found - y).norm() / y.norm()), cosines


@pytest.mark.parametrize("modes", [4, 6, 8, 16])
@pytest.mark.parametrize("splitter", [0.0, 0.05, 0.2])
def test_without_noise_the_growth_is_exact(modes, splitter):
    chip = Chip(chips.Rectangular(), modes, modes, splitter=splitter, seed=1)
    surrogate = calibrated(chip, Precision(rows=16, iterations=0))
    residual, cosines = compared(chip, surrogate)
    assert residual < 1e-5  # the model is in single precision
    assert min(cosines) > 0.999999
    assert float(surrogate.held_out) < 1e-11  # and was found in double
    assert bool(surrogate.accepted)


@pytest.mark.parametrize(("modes", "outputs"), [(4, 2), (8, 2), (8, 3), (8, 5), (8, 6), (16, 8), (16, 10), (16, 15)])
def test_without_noise_the_growth_is_exact_where_some_outputs_are_not_read(modes, outputs):
    chip = Chip(chips.Rectangular(), modes, outputs, modes=modes, seed=1)
    surrogate = calibrated(chip, Precision(rows=16, iterations=0))
    residual, cosines = compared(chip, surrogate)
    assert residual < 1e-5
    assert min(cosines) > 0.999999
    assert float(surrogate.held_out) < 1e-7


@pytest.mark.parametrize(("outputs", "precision"), [(12, Precision(rows=64)), (8, Precision(rows=64, repeats=4))])
def test_outputs_that_are_not_read_cost_repeats(outputs, precision):
    chip = Chip(chips.Rectangular(), 16, outputs, modes=16, seed=0)
    surrogate = calibrated(Noisy(chip, read=0.01), precision)
    residual, cosines = compared(chip, surrogate)
    assert residual < 0.05
    assert min(cosines) > 0.995


@pytest.mark.parametrize(("modes", "limit"), [(8, 0.01), (16, 0.01)])
@pytest.mark.parametrize("seed", range(3))
def test_with_one_percent_noise(modes, limit, seed):
    chip = Chip(chips.Rectangular(), modes, modes, seed=seed)
    surrogate = calibrated(Noisy(chip, read=0.01, seed=seed), Precision(rows=64), seed)
    residual, cosines = compared(chip, surrogate)
    assert residual < limit
    assert min(cosines) > 0.9999
    assert float(surrogate.noise) == pytest.approx(0.01, rel=0.3)
    assert float(surrogate.held_out) < 0.012  # the check averages two readings of each row


def test_the_joint_fit_gains():
    chip = Chip(chips.Rectangular(), 16, 16, seed=2)
    grown, fitted = (
        compared(chip, calibrated(Noisy(chip, read=0.03), Precision(rows=32, iterations=n)))[0] for n in (0, 60)
    )
    assert fitted < 0.6 * grown


def test_a_dim_mesh_as_built_with_fewer_inputs():
    device = as_built(bp.devices.MZIMesh(5, 8), seed=3, scale=1e-3)
    surrogate = CalibratedChip(bp.devices.MZIMesh(5, 8), precision=Precision(rows=24))
    surrogate.bind(device.declaration)
    surrogate.input_rms = 2.0
    generator = torch.Generator().manual_seed(0)
    run(surrogate.start(device.theta.draw(generator), generator), device.measure)
    residual, cosines = compared(device, surrogate)
    assert residual < 1e-3
    assert min(cosines) > 0.9999


@pytest.mark.parametrize("precision", [Precision(rows=16), Precision(rows=20, repeats=2, more=3)])
def test_the_price_is_known_before(precision):
    chip = Chip(chips.Rectangular(), 8, 8)

    def start():
        surrogate = CalibratedChip(chip, precision=precision)
        surrogate.bind(chip.declaration)
        generator = torch.Generator().manual_seed(0)
        return surrogate.start(chip.theta.draw(generator), generator)

    ledger = price(start, chip)
    chip = Chip(chips.Rectangular(), 8, 5, modes=8)
    ledger_of_five = price(start, chip)
    assert ledger_of_five.total_programmings == precision.programmings(8, 5) > ledger.total_programmings
    assert ledger_of_five.total_rows == precision.total_rows(8, 5)
    assert ledger.programmings[Purpose.CALIBRATE] == precision.programmings(8) == ledger.total_programmings
    assert ledger.rows[Purpose.CALIBRATE] == precision.total_rows(8) == ledger.total_rows
    if precision.repeats == 1:
        assert precision.programmings(8) == 2 * 8 + 19


@pytest.mark.parametrize("losses", [chips.Losses(0.2), chips.Losses(0.3, port=1.5, spread=0.2)])
def test_losses_that_differ_from_their_nominal_are_found(losses):
    chip = Chip(chips.Rectangular(), 16, 16, losses=losses, seed=1)
    grown, fitted = (
        compared(chip, calibrated(Noisy(chip, read=0.01), Precision(rows=64, repeats=2, iterations=n)))[0]
        for n in (0, 60)
    )
    assert fitted < 0.005
    assert fitted < 0.3 * grown


@pytest.mark.parametrize("quartic", [0.0, 0.02])
@pytest.mark.parametrize("losses", [None, chips.Losses(0.2)])
def test_heaters_and_their_crosstalk_are_found(losses, quartic):
    """Slopes that err by 5 %, and 2 % of crosstalk that nobody knows of."""
    chip = Chip(chips.Rectangular(), 8, 8, losses=losses, heaters=chips.Heaters(quartic=quartic), seed=1)
    surrogate = calibrated(Noisy(chip, read=0.01))
    residual, cosines = compared(chip, surrogate)
    assert residual < 0.005
    assert min(cosines) > 0.9999
    assert float(surrogate.model.crosstalk) == pytest.approx(0.02, abs=1e-3)
    slopes = torch.stack((surrogate.model.slopes.double(), chip.build.slopes))
    assert float(slopes.corrcoef()[0, 1]) > 0.99


@pytest.mark.parametrize(
    ("modes", "noise", "precision"),
    [
        (8, 0.01, Precision(rows=32, iterations=0)),
        (16, 0.01, Precision(rows=32, iterations=0)),
        (16, 0.05, Precision(rows=64, iterations=0)),
        (16, 0.01, Precision(rows=32, repeats=3, iterations=0)),
        (32, 0.01, Precision(rows=48, iterations=0)),
    ],
)
def test_the_law_of_the_growth_holds(modes, noise, precision):
    """Within a factor of two, in the mean of four chips."""
    found = []
    for seed in range(4):
        chip = Chip(chips.Rectangular(), modes, modes, seed=seed)
        found.append(compared(chip, calibrated(Noisy(chip, read=noise, seed=seed), precision, seed))[0])
    ratio = sum(found) / len(found) / precision.grown(modes, noise)
    assert 0.5 < ratio < 2


def test_the_cheapest_precision_for_a_residual():
    chip = Chip(chips.Rectangular(), 16, 16, cost=bp.Cost(programming=1e-3, row=1e-6))
    precision = Precision.reaching(0.005, 16, 0.01, chip.cost)
    assert precision.grown(16, 0.01) <= 0.01
    assert precision.repeats == 1  # programmings are dear
    residual, _ = compared(chip, calibrated(Noisy(chip, read=0.01), precision))
    assert residual < 0.005
    with pytest.raises(ArgumentError, match=r"residual=.*positive"):
        Precision.reaching(0.0, 16, 0.01)


def test_readings_of_noise_are_not_believed():
    device = Noisy(Chip(chips.Rectangular(), 8, 8), read=30.0, scale=1.0, seed=1)
    surrogate = calibrated(device, Precision(rows=16))
    assert not bool(surrogate.accepted)
    x = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))
    with pytest.warns(CalibrationWarning, match="unexplained at settings that it was not made from"):
        surrogate.observe(x, x)
    surrogate.observe(x, x)  # said once


def test_a_chip_of_another_design_is_not_believed():
    """Three splitters where two are expected."""
    device = Chip(chips.Rectangular(3), 8, 8)
    surrogate = CalibratedChip(bp.devices.MZIMesh(8, 8), precision=Precision(rows=16))
    surrogate.bind(device.declaration)
    generator = torch.Generator().manual_seed(0)
    run(surrogate.start(device.theta.draw(generator), generator), device.measure)
    assert not bool(surrogate.accepted)


def test_it_trains_a_layer():
    chip = Chip(chips.Rectangular(), 8, 8, seed=5)
    surrogate = CalibratedChip(chip, precision=Precision(rows=16))
    layer = bp.PhysicalLayer(chip, FromSurrogate(surrogate), surrogate, generator=torch.Generator().manual_seed(0))
    x = torch.randn(64, 8, generator=torch.Generator().manual_seed(1))
    goal = chip.transfer(x, chip.theta.draw(torch.Generator().manual_seed(2)))
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.05)
    losses = []
    for _ in range(200):
        optimizer.zero_grad()
        loss = (layer(x) - goal).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.05 * losses[0]


def test_the_contract():
    chip = Chip(chips.Rectangular(), 8, 8, seed=1)
    check_surrogate(lambda: CalibratedChip(chip, precision=Precision(rows=16)), device=chip)


def test_the_twin_without_errors_is_the_design():
    mesh = bp.devices.MZIMesh(5, 6)
    twin = ChipTwin(mesh)
    theta = mesh.theta.draw(torch.Generator().manual_seed(0))
    x = torch.randn(4, 5, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(twin(x, theta), mesh.transfer(x, theta))


@pytest.mark.parametrize(
    ("device", "match"),
    [
        (Chip(chips.Rectangular(), 5, 8, readout=chips.Power()), "all inputs driven"),
        (Chip(chips.Rectangular(), 8, 8, heaters=chips.Heaters(v_max=2.1)), r"a phase of 1\.15π"),
        (Chip(chips.Rectangular(), 2, 2), "4 modes"),
        (Chip(chips.Rectangular(), 8, 1), "2 outputs"),
    ],
)
def test_devices_that_no_calibration_serves_are_refused(device, match):
    with pytest.raises(IncompatibleError, match=match):
        CalibratedChip(device).bind(device.declaration)


def test_wrong_arguments_are_refused():
    with pytest.raises(ArgumentError, match="takes a Chip"):
        CalibratedChip(bp.devices.Matrix(4, 4))
    with pytest.raises(ArgumentError, match="takes a Precision"):
        CalibratedChip(bp.devices.MZIMesh(4, 4), precision=3)
    for name, value in (("rows", 0), ("repeats", 0), ("more", -1), ("iterations", -1)):
        with pytest.raises(ArgumentError, match=name):
            Precision(**{"rows": 8, name: value})
