"""The medium: what its matrix is made of, what the camera and the hologram read, and that its mask trains it."""

from __future__ import annotations

import pytest
import torch

import blackprop as bp
from blackprop.core import Purpose, Query
from blackprop.devices import ScatteringMedium
from blackprop.errors import ArgumentError
from support import Opaque, draw

both = pytest.mark.parametrize("linear", [False, True])


@both
def test_it_keeps_the_contract(linear):
    bp.testing.check_device(ScatteringMedium(7, 5, linear=linear))


@both
def test_it_reads_the_scattered_field(linear):
    device = ScatteringMedium(6, 9, linear=linear, seed=3)
    x, thetas = draw(4, 6, dtype=torch.float64), 3 * draw(2, 6, seed=1, dtype=torch.float64)
    fields = [(x * torch.exp(1j * theta)) @ device.medium.to(torch.complex128) for theta in thetas]
    expected = torch.stack([f.real if linear else f.abs().square() for f in fields])
    torch.testing.assert_close(device.transfer(x, thetas), expected)


@both
def test_it_starts_clear_and_the_same_for_a_seed(linear, generator):
    device = ScatteringMedium(6, 9, linear=linear, seed=1)
    x, theta = draw(3, 6), device.theta.draw(generator)
    assert torch.equal(theta, torch.zeros(6))
    field = x.to(torch.complex64) @ device.medium
    torch.testing.assert_close(device.transfer(x, theta), field.real if linear else field.abs().square())
    assert torch.equal(device.transfer(x, theta), ScatteringMedium(6, 9, linear=linear, seed=1).transfer(x, theta))
    assert not torch.allclose(device.transfer(x, theta), ScatteringMedium(6, 9, linear=linear).transfer(x, theta))


def test_the_matrix_is_complex_normal_and_its_speckle_is_what_optics_knows():
    R = ScatteringMedium(300, 400).medium
    for part in (R.real, R.imag):
        assert float(part.var()) == pytest.approx(1 / 300, rel=0.02)
        assert abs(float(part.mean())) < 1e-3
    assert abs(float((R.real * R.imag).mean())) < 1e-4
    y = ScatteringMedium(300, 400).transfer(torch.ones(1, 300), torch.zeros(300))
    assert float(y.mean()) == pytest.approx(2, rel=0.15)
    assert float(y.std() / y.mean()) == pytest.approx(1, rel=0.1)  # the contrast of a developed speckle


def test_a_camera_sees_squares_and_a_hologram_is_linear():
    camera, hologram = (ScatteringMedium(6, 9, linear=linear) for linear in (False, True))
    x, theta = draw(3, 6), draw(6, seed=1)
    torch.testing.assert_close(camera.transfer(-2 * x, theta), 4 * camera.transfer(x, theta))
    torch.testing.assert_close(hologram.transfer(-2 * x, theta), -2 * hologram.transfer(x, theta))
    assert (camera.linear, hologram.linear) == (False, True)


def test_its_mask_focuses_light_without_knowing_the_medium(generator):
    """As wavefront shaping does: all light on one pixel, found by perturbations alone."""
    device = Opaque(ScatteringMedium(16, 8, seed=2))
    layer = bp.PhysicalLayer(device, bp.estimators.RandomDirections(16), generator=generator)
    optimizer, row = torch.optim.Adam([layer.theta], lr=0.1), torch.ones(1, 16)
    shares = []
    for _ in range(150):
        optimizer.zero_grad()
        y = layer(row)[0]
        share = y[0] / y.sum()
        (-share).backward()
        optimizer.step()
        shares.append(share.item())
    assert shares[0] < 0.25
    assert shares[-1] > 0.5
    assert layer.ledger.rows[Purpose.SURROGATE] == 0


def test_many_settings_are_served_as_one_by_one():
    device = ScatteringMedium(6, 9)
    x, thetas = draw(4, 6), draw(5, 6, seed=1)
    together = device.measure([Query(x, theta, Purpose.PARAMETER) for theta in thetas])
    alone = [device.measure([Query(x, theta, Purpose.PARAMETER)])[0] for theta in thetas]
    torch.testing.assert_close(together, alone)


def test_sizes_are_positive():
    with pytest.raises(ArgumentError):
        ScatteringMedium(0, 3)
    with pytest.raises(ArgumentError):
        ScatteringMedium(3, 0)
