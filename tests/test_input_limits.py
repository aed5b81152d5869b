"""Inputs have limits: declared, kept to by all that is sent, and no obstacle to learning a device."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import blackprop as bp
from blackprop.core import Declaration
from blackprop.core import _probes as probes

LIMITS = [(0.0, 1.0), (-1.0, 1.0), (0.2, 1.0), (-1.0, 0.97), (0.0, None), (None, 0.0), (-5.0, 5.0), (-1.0, -0.5)]


def spec(low: float | None, high: float | None, d_in: int = 5) -> Declaration:
    cost = bp.Cost()
    return Declaration("it", (d_in,), (3,), bp.ThetaSpec(1), True, bp.Coupling.NONE, cost, x_low=low, x_high=high)


@pytest.mark.parametrize(("low", "high"), LIMITS)
@pytest.mark.parametrize("d_in", [1, 2, 4, 16, 65])
def test_probes_within_limits_show_what_signed_ones_would(low, high, d_in):
    it, generator = spec(low, high, d_in), torch.Generator().manual_seed(0)
    A = torch.randn(3, d_in, generator=generator)
    found = probes.spanning(it, torch.eye(d_in), 1.0, amplitude=0.5)
    it.check_rows(found.rows)
    assert len(found.rows) == probes.spanning_count(it)
    torch.testing.assert_close(found.matrix(found.rows @ A.mT), A, rtol=1e-4, atol=1e-4)
    Z, w = torch.randn(4, d_in, generator=generator), torch.randn(4, 3, generator=generator)
    found = probes.signed(it, Z)
    it.check_rows(found.rows)
    y = found.rows @ A.mT
    torch.testing.assert_close(found.products(y), Z @ A.mT, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close((found.cotangents(w) * y).sum(), (w * (Z @ A.mT)).sum(), rtol=1e-3, atol=1e-3)
    x = probes.within(it, torch.randn(200, d_in, generator=generator))
    it.check_rows(x)
    assert float(x.std()) > 0.1  # they still span what there is


@pytest.mark.parametrize(("low", "high"), LIMITS)
def test_the_noise_that_spanning_rows_leave_is_what_is_said(low, high):
    it = spec(low, high, 16)
    h = min(0.5, (it.x_range[1] - it.x_range[0]) / 2)
    found = probes.spanning(it, torch.eye(16), 1.0, amplitude=0.5)
    decoder = found.weights / found.divisor
    worst = float(decoder.square().sum(0).max())
    assert worst <= 2 / ((len(found.rows) + 1) * h * h)
    assert worst < 1 / h**2 / 4  # a quarter of what unit rows of this amplitude leave


def test_without_limits_rows_are_sent_as_they_are():
    it, Z = spec(None, None), torch.randn(4, 5)
    assert probes.signed(it, Z).rows is Z
    assert probes.within(it, Z) is Z
    assert probes.spanning(it, torch.eye(5), 1.0, 1.0).rows.equal(torch.eye(5))
    assert probes.signed(spec(-9.0, 9.0), Z).rows is Z


@pytest.mark.parametrize("size", [1, 2, 3, 4, 8, 64, 784, 1024])
def test_the_order_is_a_prime_of_the_form_4k_plus_3(size):
    p = probes.order(size)
    assert p >= size
    assert p % 4 == 3
    assert all(p % q for q in range(2, p))
    assert p <= max(11, 1.2 * size)


def modulator(low: float | None = 0.0, high: float | None = 1.0, *, linear: bool = True) -> bp.Device:
    return bp.devices.from_callable(
        lambda x, theta: x @ theta.view(3, 4).cos().mT / 2,
        in_shape=4,
        out_shape=3,
        theta_size=12,
        initial=lambda g: torch.rand(12, generator=g) * 6,
        linear=linear,
        x_low=low,
        x_high=high,
    )


def test_limits_are_declared_kept_and_shown():
    device = modulator(np.float32(0), 1)
    assert (device.x_low, device.x_high) == (0.0, 1.0)
    assert (device.declaration.x_low, device.declaration.x_high) == (0.0, 1.0)
    assert "inputs in [0, 1]" in repr(device)
    assert "inputs in [0, ∞)" in repr(modulator(0.0, math.inf))
    assert "inputs" not in repr(modulator(None, None))
    assert bp.devices.Noisy(device, read=0.1).x_high == 1.0


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [
        (1.0, 0.0, "x_low must be under x_high"),
        (1.0, 1.0, "x_low must be under x_high"),
        (math.nan, 1.0, "must be a number or None"),
        (math.inf, None, "must be a number or None"),
        ("a", 1.0, "must be a number or None"),
    ],
)
def test_wrong_limits_are_refused_at_construction(low, high, said):
    with pytest.raises(bp.errors.ArgumentError, match=said):
        modulator(low, high)


def test_a_row_outside_is_refused_with_the_way_out():
    layer = bp.PhysicalLayer(modulator())
    said = r"row 1, input 2 = 1\.0000001 is outside the limits of the inputs .*\[0, 1\]; scale .*Differential"
    x = torch.rand(3, 4)
    x[1, 2] = 1 + 1e-7
    with pytest.raises(bp.errors.LimitError, match=said):
        layer(x)
    assert layer.ledger.total_rows == 0
    with pytest.raises(bp.errors.LimitError, match="not finite"):
        layer(torch.full((1, 4), math.nan))
    layer(x.clamp(0, 1))


def test_errors_of_settings_tell_the_difference():
    device = bp.devices.from_callable(lambda x, theta: x, in_shape=2, out_shape=2, theta_size=1, low=-1.0, high=1.0)
    with pytest.raises(bp.errors.LimitError, match=r"theta\[0\] = 1\.0000001 is outside the device's limits \[-1"):
        device.theta.check(torch.tensor([1 + 1e-7]))


def test_shapes_may_be_any_whole_number():
    device = bp.devices.from_callable(lambda x, theta: x, in_shape=np.int64(4), out_shape=(np.int32(4),), theta_size=1)
    assert device.in_shape == device.out_shape == (4,)
    assert all(type(n) is int for n in device.in_shape + device.out_shape)
    for wrong in (0, -1, 2.5, "a", (2, 0), ()):
        with pytest.raises(bp.errors.ArgumentError, match="must be a positive number or a tuple of them"):
            bp.devices.from_callable(lambda x, theta: x, in_shape=wrong, out_shape=4, theta_size=1)
