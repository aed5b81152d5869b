"""Estimators against each other and against autograd, at limits, in parts, and within bounds of memory."""

from __future__ import annotations

import pytest
import torch

import blackprop as bp
from blackprop.directions import Orthogonal
from blackprop.estimators import BatchContraction, Central, Coordinate, Forward, Oracle, RandomDirections
from blackprop.ledger import metered
from blackprop.query import Purpose, run
from support import Opaque, draw


def _gradient(estimator, device, x, theta, grad_y, seed=0, ledger=None):
    y = device.oracle()(x, theta) if device.oracle() else device.inner.transfer(x, theta)
    generator = torch.Generator().manual_seed(seed)
    procedure = estimator.vjp(x, theta, y, grad_y, device.declaration, generator)
    return run(procedure, metered(device, ledger if ledger is not None else bp.Ledger()))


def _problem(device, rows=7, dtype=torch.float64):
    theta = device.theta.draw(torch.Generator().manual_seed(0)).to(dtype)
    return draw(rows, device.in_shape[0], dtype=dtype), theta, draw(rows, device.out_shape[0], seed=1, dtype=dtype)


SIMULATORS = [
    bp.devices.Matrix(6, 4),
    bp.devices.LowRank(6, 4, rank=2),
    bp.devices.LightModulator(6, 4),
    bp.devices.Microring(6, 4),
    bp.devices.MZIMesh(6, 4),
    bp.devices.ThreeSplitterMesh(6, 4),
    bp.devices.Monarch(6, 4),
    bp.devices.Resampling(6, 4),
    bp.devices.Diffraction(9, 4),
]


@pytest.mark.parametrize("device", SIMULATORS, ids=str)
@pytest.mark.parametrize("difference", [Forward(), Central()], ids=str)
def test_coordinates_are_autograd_on_every_simulator(device, difference):
    x, theta, grad_y = _problem(device)
    exact = _gradient(Oracle(), device, x, theta, grad_y)
    found = _gradient(Coordinate(1e-6, difference), device, x, theta, grad_y)
    torch.testing.assert_close(found, exact, rtol=1e-3, atol=1e-4 * float(exact.abs().max()))


@pytest.mark.parametrize("device", [d for d in SIMULATORS if d.linear], ids=str)
@pytest.mark.parametrize("estimator", [Coordinate(1e-5), RandomDirections(5, 1e-5)], ids=["coordinate", "random"])
def test_a_contracted_batch_gives_the_same_gradient(device, estimator):
    from dataclasses import replace

    x, theta, grad_y = _problem(device, rows=9)
    whole = _gradient(estimator, device, x, theta, grad_y)
    ledger = bp.Ledger()
    short = _gradient(replace(estimator, contraction=BatchContraction()), device, x, theta, grad_y, ledger=ledger)
    torch.testing.assert_close(short, whole, rtol=1e-6, atol=1e-6 * float(whole.abs().max()))
    assert ledger.total_rows % device.out_shape[0] == 0


def test_a_spanning_set_of_orthogonal_directions_is_the_gradient():
    device = bp.devices.LightModulator(6, 4)
    x, theta, grad_y = _problem(device)
    exact = _gradient(Oracle(), device, x, theta, grad_y)
    found = _gradient(RandomDirections(24, 1e-6, Orthogonal(), Central()), device, x, theta, grad_y)
    torch.testing.assert_close(found, exact, rtol=1e-6, atol=1e-8)


def test_a_fraction_of_the_batch_is_unbiased_and_cheaper():
    device = bp.devices.LightModulator(6, 4)
    x, theta, grad_y = _problem(device, rows=10)
    exact = _gradient(Oracle(), device, x, theta, grad_y)
    ledger = bp.Ledger()
    estimator = RandomDirections(4000, 1e-5, Orthogonal(), fraction=0.3)
    found = _gradient(estimator, device, x, theta, grad_y, ledger=ledger)
    assert ledger.total_rows == 4000 * 3
    assert float((found - exact).norm() / exact.norm()) < 0.2
    assert float((found - exact).norm() / exact.norm()) > 1e-3  # it is an estimate, of other rows each time


@pytest.mark.parametrize("at", [0.0, 1.0, 0.5])
@pytest.mark.parametrize(
    "estimator",
    [RandomDirections(3000, 1e-3), RandomDirections(3000, 1e-3, difference=Central()), Coordinate(1e-3)],
    ids=["forward", "central", "coordinate"],
)
def test_at_a_limit_the_gradient_is_right_and_no_setting_is_outside(estimator, at):
    device = bp.devices.from_callable(
        lambda x, theta: x * theta.sin(), in_shape=4, out_shape=4, theta_size=4, low=0.0, high=1.0
    )
    theta, x, grad_y = torch.full((4,), at), draw(5, 4), draw(5, 4, seed=1)
    y = x * theta.sin()
    procedure = estimator.vjp(x, theta, y, grad_y, device.declaration, torch.Generator().manual_seed(0))
    found = run(procedure, metered(device, bp.Ledger()))  # metered refuses what is outside
    exact = (grad_y * x).sum(0) * theta.cos()
    assert float((found - exact).norm() / exact.norm()) < 0.1


def test_a_step_that_does_not_fit_between_the_limits_is_refused():
    device = bp.devices.from_callable(lambda x, t: x * t, in_shape=2, out_shape=2, theta_size=2, low=0.0, high=1e-4)
    for estimator in (Coordinate(1e-3), RandomDirections(2, 1e-4)):
        with pytest.raises(bp.errors.IncompatibleError, match="use a smaller step"):
            bp.PhysicalLayer(device, estimator)


@pytest.mark.parametrize("estimator", [RandomDirections(40, 1e-4), Coordinate(1e-4)], ids=["random", "coordinate"])
def test_rounds_are_split_to_bound_memory_and_agree(estimator, monkeypatch):
    device = bp.devices.LightModulator(6, 4)
    x, theta, grad_y = _problem(device)
    whole = _gradient(estimator, device, x, theta, grad_y)
    for module in ("random_directions", "coordinate"):
        monkeypatch.setattr(f"blackprop.estimators.{module}.ROUND_BYTES", 10_000)
    ledger = bp.Ledger()
    parts = _gradient(estimator, device, x, theta, grad_y, ledger=ledger)
    if isinstance(estimator, Coordinate):
        torch.testing.assert_close(parts, whole)
    assert ledger.total_programmings == (40 if isinstance(estimator, RandomDirections) else 48)


def test_the_forward_rows_serve_as_the_base(opaque: Opaque):
    theta = opaque.theta.draw(torch.Generator().manual_seed(0))
    ledger = bp.Ledger()
    _gradient(RandomDirections(3), opaque, draw(2, 6), theta, draw(2, 4), ledger=ledger)
    assert ledger.rows == {Purpose.PARAMETER: 6}
    assert ledger.programmings == {Purpose.PARAMETER: 3}
