"""Devices that would mislead an inquiry are found out, and end no worse than untouched ones."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import blackprop as bp
from blackprop.planning import AskFirst, Family
from support import draw


def asked(device: bp.Device) -> bp.PhysicalLayer:
    layer = bp.PhysicalLayer(device, generator=torch.Generator().manual_seed(0))
    assert isinstance(layer.surrogate, AskFirst)
    return layer


def clipped(d_in: int = 8, d_out: int = 5) -> bp.Device:
    """A matrix near the θ at which it starts, which saturates as θ grows."""
    return bp.devices.from_callable(
        lambda x, t: (x @ t.view(d_out, d_in).mT).clamp(-1, 1), in_shape=d_in, out_shape=d_out, theta_size=d_in * d_out
    )


def regression(layer: bp.PhysicalLayer, *, trained: bool, seed: int, steps: int = 250) -> float:
    """The relative error of a small network around the layer on fresh rows."""
    torch.manual_seed(seed)
    model = torch.nn.Sequential(torch.nn.Linear(10, 8), torch.nn.Tanh(), layer, torch.nn.Linear(5, 3))
    layer.theta.requires_grad_(trained)
    optimizer = torch.optim.Adam(bp.param_groups(model, lr=1e-2, device_lr=5e-2))
    mix, out = draw(10, 16, seed=70), draw(16, 3, seed=71)

    def batch(rows: int, at: int) -> tuple[Tensor, Tensor]:
        x = draw(rows, 10, seed=at)
        return x, (x @ mix).tanh() @ out

    for step in range(steps):
        x, target = batch(64, 1000 + step)
        optimizer.zero_grad()
        (model(x) - target).square().mean().backward()
        optimizer.step()
    with torch.no_grad():
        x, target = batch(1000, 1)
        return float((model.eval()(x) - target).square().mean() / target.var())


def test_a_device_that_saturates_away_from_its_start_is_found_out_and_trains():
    """Near θ₀ it is a matrix of elements. Training by their curves used to end at twice the error of a frozen one."""
    layers = [bp.PhysicalLayer(clipped(), generator=torch.Generator().manual_seed(seed)) for seed in range(4)]
    default = [regression(layer, trained=True, seed=seed) for seed, layer in enumerate(layers[:2])]
    frozen = [regression(layer, trained=False, seed=seed) for seed, layer in enumerate(layers[2:])]
    assert sum(default) < 0.95 * sum(frozen)
    finding = layers[0].surrogate.finding
    assert finding.family is Family.BLOCKS
    assert "not linear at other settings" in finding.why
    again = bp.PhysicalLayer(clipped())
    again.load_state_dict(layers[0].state_dict())
    assert again.surrogate.finding.why == finding.why
    assert again.surrogate.chosen == layers[0].surrogate.chosen == "complete-set"


def test_biases_among_the_parameters_are_no_dark_level():
    """A constant that moves with θ has a gradient of its own, which a matrix above a dark level has not."""
    affine = bp.devices.from_callable(
        lambda x, t: x @ t[:32].view(4, 8).mT + t[32:], in_shape=8, out_shape=4, theta_size=36
    )
    layer = asked(affine)
    layer(draw(16, 8, seed=0)).square().sum().backward()
    assert layer.surrogate.finding.family is not Family.LINEAR
    assert "without input move" in layer.surrogate.finding.why
    theta = layer.theta.detach().clone().requires_grad_()
    x = draw(16, 8, seed=0)
    (layer.gain.detach() * (x @ theta[:32].view(4, 8).mT + theta[32:])).square().sum().backward()
    mean = torch.zeros_like(theta)
    for _ in range(60):
        layer.theta.grad = None
        layer(x).square().sum().backward()
        mean += layer.theta.grad
    assert float(torch.cosine_similarity(mean[32:], theta.grad[32:], dim=0)) > 0.9


@pytest.mark.parametrize("shape", [(6,), (2, 3)], ids=["vectors", "images"])
def test_small_devices_and_devices_of_images_are_asked_for_their_noise(shape):
    """The step of a perturbation follows the noise, declared or not."""

    def noisy(x: Tensor, t: Tensor) -> Tensor:
        y = (x.flatten(1) * t[:6]).cos() + t[6:].sin().sum()
        return (y + 0.05 * torch.randn(y.shape)).unflatten(1, shape)

    device = bp.devices.from_callable(noisy, in_shape=shape, out_shape=shape, theta_size=9, period=2 * math.pi)
    layer = asked(device)
    (layer(draw(16, *shape, seed=0)) * draw(16, *shape, seed=90)).sum().backward()
    assert layer.surrogate.finding.noise == pytest.approx(0.05 / 1.2, rel=0.7)
    assert (
        layer.surrogate.estimator.step
        > 5
        * bp.PhysicalLayer(
            bp.devices.from_callable(
                noisy, in_shape=shape, out_shape=shape, theta_size=9, period=2 * math.pi, noise=1e-6
            )
        ).estimator.step
    )
