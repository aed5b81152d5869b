"""Readings of any scale train: the gain is set at the first of them."""

from __future__ import annotations

import copy
import math
import warnings

import pytest
import torch
from torch import Tensor, nn

import blackprop as bp
from blackprop.devices._simulator import apply_matrix


class Scaled(bp.devices.Simulator):
    stacks = True

    def __init__(self, d_in: int, d_out: int, scale: float) -> None:
        size = d_in * d_out
        theta = bp.ThetaSpec(size, lambda g: 6.28 * torch.rand(size, generator=g), period=2 * math.pi)
        super().__init__(d_in, d_out, theta, linear=True, coupling=bp.Coupling.ELEMENT)
        self.scale = scale

    def transfer(self, x: Tensor, theta: Tensor, /) -> Tensor:
        matrix = theta.cos().unflatten(-1, (*self.out_shape, *self.in_shape)) / self.in_shape[0] ** 0.5
        return self.scale * apply_matrix(matrix, x)


def layer(scale: float, **options) -> bp.PhysicalLayer:
    return bp.PhysicalLayer(Scaled(8, 6, scale), generator=torch.Generator().manual_seed(0), **options)


X = torch.randn(32, 8, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("scale", [1e-5, 1e-3, 1e4])
def test_readings_of_any_scale_come_out_near_one(scale):
    it = layer(scale)
    y = it(X)
    assert 0.5 < float(y.detach().square().mean().sqrt()) < 2
    assert math.log2(float(it.gain.detach())).is_integer()
    assert "gain set at the first reading, whose root mean square was" in repr(it)
    kept = float(it.gain.detach())
    it(100 * X)
    assert float(it.gain.detach()) == kept


@pytest.mark.parametrize("scale", [0.05, 1.0, 50.0])
def test_ordinary_readings_are_left_alone(scale):
    it = layer(scale)
    it(X)
    it.device.scale *= 1e-6  # decided, whatever comes
    it(X)
    assert float(it.gain.detach()) == 1
    assert "gain set" not in repr(it)


def test_nothing_is_set_in_eval_nor_where_the_user_has_set_it():
    it = layer(1e-4).eval()
    it(X)
    assert float(it.gain.detach()) == 1
    it.train()(X)
    assert float(it.gain.detach()) > 1000
    mine, fixed = layer(1e-4), layer(1e-4)
    mine.gain.data.fill_(3)
    fixed.gain.requires_grad_(False)
    mine(X), fixed(X)
    assert (float(mine.gain.detach()), float(fixed.gain.detach())) == (3, 1)


@pytest.mark.filterwarnings("ignore::blackprop.errors.CalibrationWarning")  # said of 16 levels
def test_what_rounding_leaves_of_a_dark_device_is_no_scale():
    it = bp.PhysicalLayer(bp.devices.Quantised(bp.devices.LightModulator(6, 4), theta_bits=4))  # all at cos(π/2)
    y = it(torch.randn(3, 6))
    assert 0 < float(y.detach().abs().max()) < 1e-6
    assert float(it.gain.detach()) == 1


def test_dark_readings_wait_and_a_pass_with_both_has_its_gradient():
    it = layer(1e-4)
    dark = it(0 * X[:2])
    assert float(it.gain.detach()) == 1
    (dark.sum() + it(X).square().sum()).backward()  # as a recurrent network whose state begins at zero
    assert float(it.gain.detach()) > 1000
    assert bool(it.theta.grad.isfinite().all())


@pytest.mark.parametrize("scale", [1e-4, 1.0])
def test_what_was_decided_is_saved(scale):
    it = layer(scale)
    it(X)
    again = layer(1e-4)
    again.load_state_dict(it.state_dict())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", bp.errors.DeviceChangedWarning)  # which it has, where the scale was 1
        again(X)
    assert torch.equal(again.gain, it.gain)
    assert repr(again) == repr(it).replace(str(it.device), str(again.device))
    assert copy.deepcopy(it).scale.decided


def _trained(scale: float) -> float:
    """The loss of a small network whose two devices read at this scale, after some steps."""
    torch.manual_seed(0)
    parts = [bp.PhysicalLayer(Scaled(*sizes, scale), bias=True) for sizes in ((8, 16), (16, 4))]
    model = nn.Sequential(parts[0], nn.ReLU(), parts[1])
    target = (X @ torch.randn(8, 4, generator=torch.Generator().manual_seed(4))).argmax(1)
    optimizer = torch.optim.Adam(bp.param_groups(model, lr=1e-2, device_lr=3e-2))
    loss = torch.zeros(())
    for _ in range(150):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(X), target)
        loss.backward()
        optimizer.step()
    return float(loss.detach())


def test_training_does_not_depend_on_the_scale():
    ordinary = _trained(1.0)
    assert ordinary < 0.3
    for scale in (1e-5, 1e-3, 1e5):
        assert _trained(scale) < 0.3  # with a gain of 1: 1.38, which is chance, or above 100


def test_several_processes_are_told_and_keep_one_gain(monkeypatch):
    from blackprop.nn import _output_scale as output_scale

    for name, value in (("is_available", True), ("is_initialized", True), ("get_world_size", 2)):
        monkeypatch.setattr(output_scale, name, lambda value=value: value)
    it = layer(1e-4)
    with pytest.warns(
        bp.errors.BlackpropWarning, match=r"set `layer.gain.data.fill_\((8192|16384)\)` in all processes"
    ):
        it(X)
    assert float(it.gain.detach()) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        it(X)
