"""In what order a layer asks, at what amplitude, and when it moves θ against drift."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import blackprop as bp
from blackprop.core import Purpose, Query
from blackprop.devices import LightModulator, Microring
from blackprop.estimators import FromSurrogate
from blackprop.surrogates import CalibratedResponse, ProjectorSplitting, Reconstruction, Twin
from support import draw


class Recorder(bp.devices.Wrapper):
    """Keeps what it was asked, in order, and answers for a device whose settings come out `shift` off."""

    def __init__(self, device: bp.Device) -> None:
        super().__init__(device)
        self.asked: list[Query] = []
        self.shift = torch.zeros(device.theta.size)

    def measure(self, queries, /):
        self.asked += queries
        return super().measure(queries)

    def _setting(self, theta: Tensor, fresh: bool) -> Tensor:
        del fresh
        return theta + self.shift.to(theta)


def layer_on(device: bp.Device, surrogate, estimator=None) -> bp.PhysicalLayer:
    estimator = estimator if estimator is not None else FromSurrogate(surrogate)
    return bp.PhysicalLayer(device, estimator, surrogate, generator=torch.Generator().manual_seed(0))


def calibrated(**options):
    return CalibratedResponse(**options)


def twin(**options):
    del options
    return Twin(bp.twins.MLPTwin(6, 4, 24, hidden=(8,)), settings=4, rows=5, fit_steps=2)


@pytest.mark.parametrize("make", [calibrated, twin, lambda: ProjectorSplitting(2, 3), lambda: Reconstruction(2)])
def test_the_first_batch_is_read_before_the_surrogate_starts(make):
    """So that instruments which set their range by what comes first see the data, and not a calibration."""
    device = Recorder(LightModulator(6, 4))
    layer = layer_on(device, make(), bp.estimators.RandomDirections(2))
    x = draw(9, 6).requires_grad_()
    layer(x)
    first, *rest = device.asked
    assert torch.equal(first.x, x.detach())
    assert first.purpose is Purpose.FORWARD
    assert rest
    assert all(query.purpose in (Purpose.CALIBRATE, Purpose.SURROGATE) for query in rest)


def test_later_the_old_setting_comes_first_and_the_batch_just_before_the_new_one():
    """Decision 3: one programming back, one to the new setting, at which the gradient's base rows then stand."""
    device = Recorder(LightModulator(6, 4))
    layer = layer_on(device, ProjectorSplitting(2, 3), bp.estimators.RandomDirections(2))
    layer(draw(9, 6).requires_grad_())
    old = layer.theta.detach().clone()
    with torch.no_grad():
        layer.theta.add_(0.1)
    new = layer.theta.detach().clone()
    device.asked.clear()
    layer(draw(9, 6, seed=1).requires_grad_())
    assert [query.purpose for query in device.asked] == [Purpose.SURROGATE, Purpose.FORWARD, Purpose.SURROGATE]
    assert [torch.equal(query.theta, old) for query in device.asked] == [True, False, False]
    assert all(torch.equal(query.theta, new) for query in device.asked[1:])


@pytest.mark.parametrize("make", [calibrated, twin])
@pytest.mark.parametrize("size", [1e-2, 1.0, 30.0])
def test_a_calibration_is_driven_at_the_amplitude_of_the_data(make, size):
    device = Recorder(LightModulator(6, 4))
    layer = layer_on(device, make())
    x = size * draw(50, 6, seed=3)
    layer(x.requires_grad_())
    rows = torch.cat([q.x for q in device.asked if q.purpose is Purpose.CALIBRATE])
    wanted = float(x.detach().square().sum(1).mean().sqrt())
    assert float(rows.square().sum(1).mean().sqrt()) == pytest.approx(wanted, rel=0.2 if len(rows) < 50 else 0.01)


def drifted(watch: float | None = 3.0) -> tuple[bp.PhysicalLayer, Recorder, Tensor]:
    """A layer that has just found that its device is displaced, and the displacement."""
    device = Recorder(Microring(24, 20))
    layer = layer_on(device, calibrated(watch=watch))
    optimizer = torch.optim.SGD([layer.theta], lr=0.01)
    for step in range(5):
        optimizer.zero_grad()
        layer(draw(32, 24, seed=step).requires_grad_()).square().mean().backward()
        if step == 4:
            device.shift = 0.02 * draw(480, seed=9)
            layer(draw(32, 24, seed=step).requires_grad_())
        optimizer.step()
    layer(draw(32, 24, seed=7).requires_grad_())  # found on the way to this θ
    return layer, device, device.shift


def test_drift_is_countered_with_the_optimizers_next_move_and_not_between():
    """While gradients accumulate θ stands still, and so does the device: each backward finds the θ of its forward."""
    layer, device, shift = drifted()
    found = layer.surrogate.offset.clone()
    assert float((found - shift).norm()) < 0.1 * float(shift.norm())
    before = layer.theta.detach().clone()
    device.asked.clear()
    for seed in range(3):
        layer(draw(32, 24, seed=seed).requires_grad_()).square().mean().backward()
        assert torch.equal(layer.theta, before)
    assert all(torch.equal(query.theta, before) for query in device.asked)
    with torch.no_grad():
        layer.theta.add_(1e-3)
    moved = layer.theta.detach().clone()
    layer(draw(32, 24).requires_grad_())
    torch.testing.assert_close(layer.theta.detach(), moved - found)
    # Once: what was countered is not countered again.
    with torch.no_grad():
        layer.theta.add_(1e-3)
    moved = layer.theta.detach().clone()
    layer(draw(32, 24).requires_grad_())
    assert float((layer.theta.detach() - moved).norm()) < 0.1 * float(found.norm())


def test_drift_is_not_countered_in_eval_nor_where_theta_is_not_trained():
    for quiet in (lambda layer: layer.eval(), lambda layer: layer.theta.requires_grad_(False)):
        layer, _, _ = drifted()
        assert float(layer.surrogate.offset.norm()) > 0
        with torch.no_grad():
            layer.theta.add_(1e-3)
        quiet(layer)
        moved = layer.theta.detach().clone()
        layer(draw(32, 24).requires_grad_())
        assert torch.equal(layer.theta.detach(), moved)
