"""Portraits: what is kept of a device is what it was, and keeping it asks nothing."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import blackprop as bp
from blackprop.errors import RunFolderError
from blackprop.experiments.records import _portrait as portrait
from support import Opaque, behind_a_linear, draw, make_layer


def matrix_of(layer):
    """From the transfer's answers to the unit rows."""
    device = layer.device
    while isinstance(device, bp.devices.Wrapper):
        device = device.device
    return device.transfer(torch.eye(*device.in_shape), layer.theta.detach()).mT


def trained(layer):
    model = behind_a_linear(layer)
    model(draw(8, 5)).square().sum().backward()
    return model


def test_a_linear_simulator_shows_its_matrix_and_theta():
    layer = make_layer()
    found = portrait.snapshot(behind_a_linear(layer))
    assert set(found) == {"1/theta", "1/matrix"}
    np.testing.assert_allclose(found["1/matrix"], matrix_of(layer), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(found["1/theta"], layer.theta.detach())


def test_the_surrogate_is_shown_once_it_has_started():
    layer = make_layer(method=(bp.estimators.RandomDirections(4), bp.surrogates.Streaming()))
    model = trained(layer)
    surrogate = portrait.snapshot(model)["1/surrogate"]
    np.testing.assert_allclose(surrogate, layer.surrogate.A, rtol=1e-6)
    with torch.no_grad():
        layer.surrogate.A.mul_(2)
    np.testing.assert_allclose(portrait.snapshot(model)["1/surrogate"], 2 * surrogate, rtol=1e-6)


def test_a_surrogate_without_a_matrix_of_its_own_shows_what_it_stands_for():
    device = bp.devices.LightModulator(6, 4)
    twin = bp.surrogates.Twin(bp.twins.LightModulatorTwin(device), settings=4, fit_steps=4)
    layer = make_layer(device, method=(bp.estimators.FromSurrogate(twin), twin))
    model = trained(layer)
    shown = portrait.snapshot(model)["1/surrogate"]
    expected = layer.surrogate.grad_x(torch.zeros(4, 6), torch.eye(4))
    np.testing.assert_allclose(shown, expected, rtol=1e-5)


def test_nothing_is_asked_booked_or_changed():
    layer = make_layer(bp.devices.Noisy(bp.devices.LightModulator(6, 4), read=0.1, seed=3))
    model = trained(layer)
    before = {name: value.clone() for name, value in model.state_dict().items() if isinstance(value, torch.Tensor)}
    state, booked = layer.device.state_dict(), layer.ledger.state_dict()
    portrait.snapshot(model)
    assert layer.ledger.state_dict() == booked
    assert str(layer.device.state_dict()) == str(state)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items() if name in before)
    assert layer.theta.grad is not None
    assert layer.training


@pytest.mark.parametrize(
    "wrap",
    [
        lambda device: bp.devices.Noisy(device, read=0.5, seed=3),
        lambda device: bp.devices.Drifting(device, per_programming=0.5, seed=3),
    ],
    ids=["noisy", "drifting"],
)
def test_the_matrix_is_free_of_noise(wrap):
    layer = make_layer(wrap(bp.devices.LightModulator(6, 4)))
    found = portrait.snapshot(layer)
    np.testing.assert_allclose(found["/matrix"], matrix_of(layer), rtol=1e-5, atol=1e-6)


def test_hardware_and_what_is_not_linear_have_no_matrix():
    assert set(portrait.snapshot(make_layer(Opaque(bp.devices.LightModulator(6, 4))))) == {"/theta"}
    bent = bp.devices.Declared(bp.devices.LightModulator(6, 4), linear=False)
    layer = make_layer(bent, method=bp.presets.oracle())
    assert set(portrait.snapshot(trained(layer))) == {"1/theta"}


def test_hardware_shows_its_surrogate():
    layer = make_layer(
        Opaque(bp.devices.LightModulator(6, 4)), method=(bp.estimators.RandomDirections(4), bp.surrogates.Streaming())
    )
    assert set(portrait.snapshot(trained(layer))) == {"1/theta", "1/surrogate"}


def test_large_ones_are_thumbnails():
    layer = make_layer(bp.devices.Matrix(512, 128))
    found = portrait.snapshot(layer)
    blocks = matrix_of(layer).unflatten(1, (128, 4)).mean(2)
    np.testing.assert_allclose(found["/matrix"], blocks, rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(found["/theta"], layer.theta.detach()[::4])  # 65,536 by 4 is within 20,000


def test_what_is_saved_is_loaded(tmp_path):
    layer = make_layer(method=(bp.estimators.RandomDirections(4), bp.surrogates.Streaming()))
    before = portrait.snapshot(behind_a_linear(layer))
    after = portrait.snapshot(trained(layer))
    path = tmp_path / "portraits" / "paper.microring.0.npz"
    portrait.save(path, before, after, np.eye(2), ["cat", "dog"])
    found = portrait.load(path)
    parts = ("theta_before", "theta_after", "matrix_before", "matrix_after", "surrogate")
    assert set(found) == {f"1/{part}" for part in parts} | {"confusion", "classes"}
    np.testing.assert_array_equal(found["1/matrix_after"], after["1/matrix"])
    np.testing.assert_array_equal(found["1/theta_before"], before["1/theta"])
    assert list(found["classes"]) == ["cat", "dog"]
    assert [each.name for each in path.parent.iterdir()] == [path.name]


def test_a_file_that_cannot_be_written_or_read_is_an_error_of_ours(tmp_path):
    (tmp_path / "taken").write_text("")
    with pytest.raises(RunFolderError, match="taken"):
        portrait.save(tmp_path / "taken" / "a.npz", {}, {})
    for content in (b"", b"nothing of the kind", b"PK\x03\x04 cut short"):
        (tmp_path / "damaged.npz").write_bytes(content)
        with pytest.raises(RunFolderError, match="damaged"):
            portrait.load(tmp_path / "damaged.npz")
