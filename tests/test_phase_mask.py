"""A phase mask in front of an unknown medium: exact without noise, and how wrong it is otherwise is said."""

from __future__ import annotations

import math

import pytest
import torch

import blackprop as bp
from blackprop.core import metered
from blackprop.devices import Noisy, ScatteringMedium
from blackprop.errors import ArgumentError, CalibrationWarning, IncompatibleError
from blackprop.estimators import FromSurrogate
from blackprop.surrogates import PhaseMask
from blackprop.testing import check_surrogate
from support import draw


def started(device: bp.Device, *, seed: int = 0, **settings) -> PhaseMask:
    surrogate = PhaseMask(**settings)
    surrogate.bind(device.declaration)
    surrogate.input_rms = math.sqrt(device.declaration.d_in)
    generator = torch.Generator().manual_seed(seed)
    bp.run(surrogate.start(device.theta.draw(generator), generator), metered(device, bp.Ledger()))
    return surrogate


def held_out(surrogate: PhaseMask, device: ScatteringMedium) -> float:
    """The relative error of predictions at settings and rows of our own, against the device without noise."""
    errors, sizes = 0.0, 0.0
    for seed in range(4):
        x, theta = draw(20, device.declaration.d_in, seed=50 + seed), 3 * draw(device.theta.size, seed=80 + seed)
        truth = device.transfer(x, theta)
        errors += float((surrogate._answer(x, theta) - truth).square().sum())
        sizes += float(truth.square().sum())
    return math.sqrt(errors / sizes)


def test_it_keeps_the_contract_of_surrogates():
    check_surrogate(PhaseMask, device=ScatteringMedium(10, 8, seed=1), tolerance=1e-3)


@pytest.mark.parametrize(("d_in", "d_out"), [(16, 16), (32, 10), (64, 64)])
def test_without_noise_it_is_exact(d_in: int, d_out: int):
    device = ScatteringMedium(d_in, d_out, seed=3)
    surrogate = started(device)
    assert held_out(surrogate, device) < 1e-3
    assert float(surrogate.residual) < 1e-3
    x, g, theta = draw(7, d_in), draw(7, d_out, seed=1), surrogate.theta.clone().requires_grad_()
    leaf = x.clone().requires_grad_()
    (device.transfer(leaf, theta) * g).sum().backward()
    assert torch.allclose(surrogate.grad_x(x, g), leaf.grad, rtol=5e-3, atol=5e-3 * float(leaf.grad.abs().max()))
    found = surrogate.grad_theta(x, g)
    assert float((found - theta.grad).norm()) < 5e-3 * float(theta.grad.norm())


def test_with_two_per_cent_of_noise_the_error_falls_with_the_rows_and_is_known():
    device = ScatteringMedium(32, 32, seed=3)
    errors = []
    for rows in (40, 160):
        surrogate = started(Noisy(device, read=0.02, seed=5), rows=rows)
        errors.append(held_out(surrogate, device))
        # The residual has the noise of the held-out readings beside the error.
        assert float(surrogate.residual) == pytest.approx(math.hypot(errors[-1], 0.02), rel=0.25)
    assert errors[0] < 0.03
    assert errors[1] < 0.65 * errors[0]


def test_a_camera_with_a_dark_level_and_inputs_of_one_sign_is_served():
    medium = ScatteringMedium(24, 12, seed=4)
    device = bp.devices.from_callable(
        lambda x, theta: medium.transfer(x, theta) + 0.7,
        in_shape=24,
        out_shape=12,
        theta_size=24,
        initial=lambda g: torch.zeros(24),
        period=2 * math.pi,
        x_low=0.0,
        x_high=1.0,
    )
    surrogate = started(device, settings=24)
    assert float(surrogate.residual) < 1e-3
    assert float(surrogate.dark.mean()) == pytest.approx(0.7, abs=1e-4)


def test_another_period_is_another_unit():
    medium = ScatteringMedium(16, 8, seed=4)
    device = bp.devices.from_callable(
        lambda x, theta: medium.transfer(x, theta * 2 * math.pi / 5),
        in_shape=16,
        out_shape=8,
        theta_size=16,
        initial=lambda g: torch.rand(16, generator=g),
        period=5.0,
    )
    surrogate = started(device)
    x, g, theta = draw(5, 16), draw(5, 8, seed=1), surrogate.theta.clone().requires_grad_()
    (medium.transfer(x, theta * 2 * math.pi / 5) * g).sum().backward()
    assert float((surrogate.grad_theta(x, g) - theta.grad).norm()) < 5e-3 * float(theta.grad.norm())


def test_a_device_that_it_does_not_explain_is_warned_of_and_one_of_another_size_refused():
    other = bp.devices.from_callable(
        lambda x, theta: (x * theta.cos()).tanh() @ draw(12, 12).mT,
        in_shape=12,
        out_shape=12,
        theta_size=12,
        initial=lambda g: torch.rand(12, generator=g),
        period=2 * math.pi,
    )
    layer = bp.PhysicalLayer(other, surrogate=PhaseMask(), generator=torch.Generator().manual_seed(0))
    with pytest.warns(CalibrationWarning, match="unexplained at settings that were not fitted"):
        layer(draw(8, 12)).sum().backward()
    layer(draw(8, 12)).sum().backward()  # once
    with pytest.raises(IncompatibleError, match="a phase for each of the inputs"):
        bp.PhysicalLayer(bp.devices.Microring(4, 4), FromSurrogate(s := PhaseMask()), s)
    for wrong in ({"settings": 0}, {"rows": 0}, {"watch": 1.0}):
        with pytest.raises(ArgumentError):
            PhaseMask(**wrong)


def test_a_medium_that_moves_is_retrieved_again():
    first, second = ScatteringMedium(12, 12, seed=1), ScatteringMedium(12, 12, seed=2)
    now = [first]

    def answer(x: torch.Tensor, theta: torch.Tensor) -> torch.Tensor:
        return now[-1].transfer(x, theta)

    device = bp.devices.from_callable(
        answer,
        in_shape=12,
        out_shape=12,
        theta_size=12,
        initial=lambda g: torch.rand(12, generator=g),
        period=2 * math.pi,
    )
    layer = bp.PhysicalLayer(device, surrogate=PhaseMask(), generator=torch.Generator().manual_seed(0))
    for step in range(40):
        if step == 15:
            now.append(second)
        layer.theta.grad = None
        layer(draw(64, 12, seed=step)).square().mean().backward()
        with torch.no_grad():
            layer.theta += 1e-2 * draw(12, seed=step)
    assert layer.residual < 1e-2
    assert layer.surrogate.monitor.sums["events"] >= 1
