"""Calibrated elements: both gradients for no query, whatever the elements, the noise and the limits."""

from __future__ import annotations

import math

import pytest
import torch

import blackprop as bp
from blackprop.core import Purpose, metered, run
from blackprop.devices import LightModulator, Matrix, Microring, Noisy, Quantised
from blackprop.errors import ArgumentError, IncompatibleError
from blackprop.surrogates import CalibratedResponse
from support import draw


class _Spread(bp.Simulator):
    """Microrings whose a, r and phase differ from one to the next."""

    def __init__(self, d_in, d_out, spread, shift):
        plain = Microring(d_in, d_out)
        super().__init__(d_in, d_out, plain.theta, linear=True, coupling=bp.Coupling.ELEMENT)
        size = plain.theta.size
        self.a = (0.8 * (1 + spread * draw(size, seed=1))).clamp(0.5, 0.97)
        self.r = (0.9 * (1 + spread * draw(size, seed=2))).clamp(0.5, 0.97)
        self.shift = shift * draw(size, seed=3)

    def transfer(self, x, theta, /):
        beat = -2 * self.r * self.a * (theta + self.shift).cos()
        t = ((beat + self.a**2 + self.r**2) / (beat + 1 + (self.r * self.a) ** 2)).sqrt()
        return x @ (2 * t - 1).view(*self.out_shape, *self.in_shape).T


class _Heaters(bp.Simulator):
    """`A = sin(θ²/4)` for θ within limits: no period."""

    def __init__(self, d_in, d_out, low=0.0, high=3.0):
        size = d_in * d_out
        theta = bp.ThetaSpec(size, lambda g: 0.5 + 2 * torch.rand(size, generator=g), low=low, high=high)
        super().__init__(d_in, d_out, theta, linear=True, coupling=bp.Coupling.ELEMENT)

    def transfer(self, x, theta, /):
        return x @ (theta.square() / 4).sin().view(*self.out_shape, *self.in_shape).T


def _calibrated(device, settings=16, move=0.5, seed=0):
    """A surrogate that was calibrated at one θ and stands at another, with the truth there."""
    generator = torch.Generator().manual_seed(seed)
    surrogate, ledger = CalibratedResponse(settings), bp.Ledger()
    surrogate.bind(device.declaration)
    theta, x = device.theta.draw(generator), draw(64, device.in_shape[0])
    surrogate.input_rms = float(x.square().sum(1).mean().sqrt())
    device.measure([bp.Query(x, theta, Purpose.FORWARD)])  # converters and detectors find their range
    run(surrogate.start(theta, generator), metered(device, ledger))
    after = device.theta.clamp(theta + move * draw(theta.numel(), seed=5))
    run(surrogate.track(theta, after, generator), metered(device, ledger))
    grad_y = draw(64, device.out_shape[0], seed=6)
    x, leaf = x.requires_grad_(), after.clone().requires_grad_()
    truth = torch.autograd.grad(device.oracle()(x, leaf), (x, leaf), grad_y)
    found = surrogate.grad_x(x.detach(), grad_y), surrogate.grad_theta(x.detach(), grad_y)
    return surrogate, ledger, found, truth


def _cosines(found, truth):
    return [float(torch.cosine_similarity(a.flatten(), b.flatten(), 0)) for a, b in zip(found, truth, strict=True)]


@pytest.mark.parametrize(
    ("device", "settings", "least"),
    [
        (LightModulator(30, 20), 8, 0.9999),
        (Microring(30, 20), 8, 0.999),
        (Matrix(30, 20), 8, 0.9999),
        (_Heaters(30, 20), 8, 0.999),
        (Noisy(LightModulator(30, 20), read=0.02), 8, 0.999),
        (Noisy(Microring(30, 20), read=0.02), 16, 0.98),
        (Quantised(LightModulator(30, 20), theta_bits=6, input_bits=8, output_bits=8, output_range=(-9, 9)), 16, 0.9),
        (_Spread(30, 20, spread=0.05, shift=0.0), 32, 0.9),
        (_Spread(30, 20, spread=0.0, shift=2.0), 32, 0.8),  # no two curves alike
    ],
    ids=str,
)
def test_both_gradients_cost_a_calibration_and_nothing_after(device, settings, least):
    _, ledger, found, truth = _calibrated(device, settings)
    grad_x, grad_theta = _cosines(found, truth)
    assert grad_x > 0.99
    assert grad_theta > least
    assert float(found[1].norm() / truth[1].norm()) == pytest.approx(1, abs=0.1)
    assert ledger.rows == {Purpose.CALIBRATE: settings * 30}
    assert ledger.programmings == {Purpose.CALIBRATE: settings}


def test_unlike_elements_are_told_apart():
    """What single elements add to the common curve is found: without it the gradient would be another."""
    device = _Spread(30, 20, spread=0.0, shift=2.0)
    surrogate, _, found, truth = _calibrated(device, 32)
    surrogate.own = surrogate.own[:0]
    surrogate._stand_at(
        device.theta.clamp(device.theta.draw(torch.Generator().manual_seed(0)) + 0.5 * draw(600, seed=5))
    )
    alike = surrogate.grad_theta(draw(64, 30), draw(64, 20, seed=6))
    assert _cosines([alike], truth[1:])[0] < 0.3
    assert _cosines(found, truth)[1] > 0.8


@pytest.mark.parametrize("noise", [0.0, 0.02])
def test_batches_are_missed_by_about_what_the_calibration_leaves(noise):
    """At settings anywhere; a little is told in addition. Without noise the curves explain more than counts."""
    device = Noisy(_Spread(30, 20, spread=0.0, shift=2.0), read=noise)
    surrogate, _, _, _ = _calibrated(device)
    found = []
    for seed in range(10):
        theta = 2 * math.pi * torch.rand(600, generator=torch.Generator().manual_seed(seed))
        surrogate._stand_at(theta)
        x = draw(64, 30, seed=seed)
        (y,) = device.measure([bp.Query(x, theta, Purpose.FORWARD)])
        surrogate.verdict.said = True
        surrogate.observe(x, y)
        found.append(surrogate.verdict.excess)
    assert (0.5 if noise else 0.0) < sum(found) / len(found) < 1.2


@pytest.mark.parametrize("low", [0.0, torch.full((600,), 0.25)], ids=["one limit", "limits of each"])
def test_the_sweep_stays_within_limits(low):
    seen = []

    class Watched(_Heaters):
        def measure(self, queries, /):
            seen.extend(q.theta for q in queries)
            return super().measure(queries)

    _calibrated(Watched(30, 20, low=low, high=torch.full((600,), 3.0) if isinstance(low, torch.Tensor) else 3.0))
    theta = torch.stack(seen)
    assert float(theta.min()) >= float(torch.as_tensor(low).min())
    assert float(theta.max()) <= 3.0
    assert float(theta.max()) > 2.9


def test_a_device_that_moved_is_calibrated_again():
    moved = 0.0

    class Moving(LightModulator):
        def transfer(self, x, theta, /):
            return super().transfer(x, theta + moved)

    device = Moving(30, 20)
    layer = bp.PhysicalLayer(device, generator=torch.Generator().manual_seed(0))
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)

    def step(seed):
        optimizer.zero_grad()
        layer(draw(16, 30, seed=seed)).square().mean().backward()
        optimizer.step()

    for seed in range(60):
        step(seed)
    assert layer.ledger.programmings[Purpose.CALIBRATE] == 16
    moved = 0.7
    for seed in range(60):
        step(seed)
    assert layer.ledger.programmings[Purpose.CALIBRATE] == 32

    leaf = layer.theta.detach().requires_grad_()
    layer.theta.grad = None
    layer(draw(16, 30)).square().mean().backward()
    (layer.gain.detach() * device.transfer(draw(16, 30), leaf)).square().mean().backward()
    assert _cosines([layer.theta.grad], [leaf.grad])[0] > 0.999


def test_noise_alone_does_not_recalibrate():
    layer = bp.PhysicalLayer(Noisy(Microring(30, 20), read=0.05), generator=torch.Generator().manual_seed(0))
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.01)
    for seed in range(200):
        optimizer.zero_grad()
        layer(draw(16, 30, seed=seed)).square().mean().backward()
        optimizer.step()
    assert layer.ledger.programmings[Purpose.CALIBRATE] == 16


def test_a_calibration_cut_short_leaves_the_surrogate():
    device = LightModulator(6, 4)
    surrogate = CalibratedResponse(4)
    surrogate.bind(device.declaration)
    before = {k: v.clone() for k, v in surrogate.state_dict().items()}

    def broken(queries):
        raise OSError("link down")

    with pytest.raises(OSError, match="link down"):
        run(surrogate.start(device.theta.draw(torch.Generator()), torch.Generator()), broken)
    assert all(torch.equal(value, before[name]) for name, value in surrogate.state_dict().items())


def test_it_is_the_plan_for_an_element_device_and_survives_its_state():
    layers = [bp.PhysicalLayer(Microring(6, 4), generator=torch.Generator().manual_seed(s)) for s in (0, 1)]
    assert "element coupling" in repr(layers[0])
    x = draw(5, 6)
    layers[0](x).sum().backward()
    layers[1].load_state_dict(layers[0].state_dict())
    layers[1](x).sum().backward()
    torch.testing.assert_close(layers[1].theta.grad, layers[0].theta.grad)
    assert layers[1].ledger.programmings[Purpose.CALIBRATE] == 16


def test_wrong_parts_are_refused():
    with pytest.raises(IncompatibleError, match="element coupling"):
        bp.PhysicalLayer(bp.devices.MZIMesh(6, 4), None, CalibratedResponse())
    with pytest.raises(ArgumentError, match="at least 3"):
        CalibratedResponse(2)
    with pytest.raises(ArgumentError, match="watch"):
        CalibratedResponse(watch=1.0)
    with pytest.raises(IncompatibleError, match="another surrogate"):
        bp.PhysicalLayer(LightModulator(6, 4), bp.estimators.FromSurrogate(CalibratedResponse()), CalibratedResponse())
    with pytest.raises(ArgumentError, match="does not model theta"):
        bp.estimators.FromSurrogate(bp.surrogates.Frozen())


def test_the_common_curve_is_finer_than_its_settings():
    """Four settings a microring, P elements: the curve is known to 4 P points, and its slope to 1 %."""
    surrogate, _, _, _ = _calibrated(Microring(64, 64), settings=4)
    phi = torch.linspace(0, 2 * math.pi, 1000, dtype=torch.float64, requires_grad=True)
    beat = -2 * 0.9 * 0.8 * phi.cos()
    curve = 2 * ((beat + 0.8**2 + 0.9**2) / (beat + 1 + 0.72**2)).sqrt() - 1
    (slope,) = torch.autograd.grad(curve.sum(), phi)
    from blackprop.surrogates.calibration._curves import TABLE, read_common

    columns = surrogate.table[:, 0].contiguous(), surrogate.table[:, 1].contiguous()
    value, per_turn = read_common(columns, (TABLE * phi.detach() / (2 * math.pi)).float())
    assert float((value - curve.detach()).norm() / curve.detach().norm()) < 0.01
    assert float((per_turn / (2 * math.pi) - slope).norm() / slope.norm()) < 0.03


def test_a_coarse_detector_does_not_spoil_the_calibration():
    """The batch is read first, and the range of the detector grows: neither the data nor the calibration is clipped."""
    device = Quantised(Microring(30, 20), output_bits=8)
    layer = bp.PhysicalLayer(device, generator=torch.Generator().manual_seed(0))
    x, plain = draw(16, 30).abs(), device.device
    y = layer(x)
    truth = plain.transfer(x, layer.theta.detach())
    assert layer.ledger.programmings[Purpose.CALIBRATE] == 16
    torch.testing.assert_close(y, truth, atol=float(truth.abs().max()) / 127, rtol=0)
    y.square().sum().backward()
    leaf = layer.theta.detach().requires_grad_()
    plain.transfer(x, leaf).square().sum().backward()
    assert _cosines([layer.theta.grad], [leaf.grad])[0] > 0.95
