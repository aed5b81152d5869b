"""Calibrations of elements that differ, and what is said where one does not explain the device."""

from __future__ import annotations

import math

import pytest
import torch

import blackprop as bp
from blackprop.core import metered, run
from blackprop.errors import CalibrationWarning
from blackprop.surrogates import CalibratedResponse
from support import draw


class Unlike(bp.Simulator):
    """`A_ij = g_ij cos(orders · θ_ij + o_ij) / √d_in`, o anywhere."""

    def __init__(self, d_in, d_out, orders=1):
        size, self.orders = d_in * d_out, orders
        theta = bp.ThetaSpec(size, lambda g: 2 * math.pi * torch.rand(size, generator=g), period=2 * math.pi)
        super().__init__(d_in, d_out, theta, linear=True, coupling=bp.Coupling.ELEMENT)
        self.gain, self.turn, self.moved = 1 + 0.2 * draw(size, seed=1), 10 * draw(size, seed=2), 0.0

    def transfer(self, x, theta, /):
        matrix = self.gain * (self.orders * (theta + self.moved) + self.turn).cos()
        return x @ matrix.view(*self.out_shape, *self.in_shape).T / math.sqrt(self.in_shape[0])


@pytest.mark.parametrize("size", [(4, 4), (16, 8)])
def test_the_slopes_of_unlike_elements_are_right(size):
    device, surrogate = Unlike(*size), CalibratedResponse()
    surrogate.bind(device.declaration)
    theta = device.theta.draw(torch.Generator().manual_seed(0))
    run(surrogate.start(theta, torch.Generator().manual_seed(0)), metered(device, bp.Ledger()))
    truth = -device.gain * (theta + device.turn).sin() / math.sqrt(size[0])
    assert float(torch.cosine_similarity(surrogate.slope.flatten(), truth, 0)) > 0.99
    assert surrogate.diagnosis()["check_settings"] == 16


def test_what_is_not_explained_is_said():
    """Forty periods in one, more than the harmonics of a curve."""
    device, surrogate = Unlike(16, 8, orders=40), CalibratedResponse(8)
    layer = bp.PhysicalLayer(device, bp.estimators.FromSurrogate(surrogate), surrogate)
    with pytest.warns(CalibrationWarning, match="8 settings do not explain.*ask for more settings .`settings=None`"):
        layer(draw(32, 16))
    layer(draw(32, 16))  # once


def test_a_displaced_device_is_found_at_the_first_batch_after_loading():
    device = Unlike(16, 8)
    layer = bp.PhysicalLayer(device, generator=torch.Generator().manual_seed(0))
    layer(draw(32, 16)).sum().backward()
    assert not layer.surrogate.moved
    other = CalibratedResponse()
    other.bind(device.declaration)
    other.load_state_dict(layer.surrogate.state_dict())
    device.moved = 1.5
    x = draw(32, 16, seed=1)
    other.observe(x, device.transfer(x, layer.theta.detach()))
    assert other.moved


def calibrated(device, surrogate, budget=None, seed=0):
    surrogate.bind(device.declaration)
    theta = device.theta.draw(torch.Generator().manual_seed(seed))
    run(surrogate.start(theta, torch.Generator().manual_seed(seed)), metered(device, bp.Ledger(), budget))
    return theta


def test_a_budget_that_refuses_the_second_call_keeps_the_first_fit():
    """Eleven periods in one: 16 settings leave doubt, and the budget forbids more."""
    device, surrogate, budget = Unlike(16, 8, orders=11), CalibratedResponse(), bp.Budget(rows=20 * 16)
    theta = calibrated(device, surrogate, budget)
    told = surrogate.diagnosis()
    assert (told["check_settings"], told["trusted"]) == (16, 0)
    x = draw(32, 16)
    with pytest.warns(CalibrationWarning, match="a wider budget"):
        surrogate.observe(x, device.transfer(x, theta))
    rich = CalibratedResponse()
    calibrated(device, rich)
    assert rich.diagnosis()["check_settings"] > 16
    assert rich.diagnosis()["trusted"] == 1


def test_an_order_beyond_the_settings_is_fitted_or_said():
    device, surrogate = Unlike(16, 8, orders=11), CalibratedResponse(8)
    theta = calibrated(device, surrogate)
    truth = -11 * device.gain * (11 * theta + device.turn).sin() / 4
    cosine = float(torch.cosine_similarity(surrogate.slope.flatten(), truth, 0))
    assert cosine > 0.9 or not surrogate.diagnosis()["trusted"]


def test_slopes_that_are_guesses_are_withheld():
    device, surrogate = Unlike(16, 8, orders=40), CalibratedResponse(8)
    calibrated(device, surrogate)
    assert surrogate.diagnosis()["check_cosine"] < 0.5
    assert not surrogate.slope.any()


class HalfRings(Unlike):
    """Every other element is a sharp resonance: a check that looks at every other one alone passes it."""

    def transfer(self, x, theta, /):
        phase = theta + self.turn
        sharp = torch.where(torch.arange(len(theta)) % 2 == 1, 1 / (1.1 - phase.cos()), phase.cos())
        return x @ sharp.view(*self.out_shape, *self.in_shape).T / math.sqrt(self.in_shape[0])


def test_the_check_looks_at_elements_of_every_kind():
    device, surrogate = HalfRings(40, 20), CalibratedResponse(8)
    calibrated(device, surrogate)
    assert surrogate.diagnosis()["trusted"] == 0


@pytest.mark.parametrize("end", [0.0, 3.0])
def test_a_displacement_is_found_from_the_side_where_there_is_room(end):
    """Elements that stand at a limit: the second setting is away from it, and not clamped onto the first."""

    class Heaters(Unlike):
        def __init__(self):
            super().__init__(16, 8)
            self.theta = bp.ThetaSpec(128, lambda g: 3 * torch.rand(128, generator=g), low=0.0, high=3.0)

    device, surrogate, asked = Heaters(), CalibratedResponse(), []
    theta = calibrated(device, surrogate)
    theta = torch.full_like(theta, end)
    measure = metered(device, bp.Ledger())
    run(surrogate.track(theta, theta, torch.Generator().manual_seed(1)), measure)

    def watched(queries):
        asked.extend(query.theta for query in queries)
        return measure(queries)

    device.moved = 0.15 if end == 0.0 else -0.15
    x = draw(64, 16)
    surrogate.observe(x, device.transfer(x, theta))
    assert surrogate.moved
    run(surrogate.track(theta, theta, torch.Generator().manual_seed(2)), watched)
    assert len(asked) == 2
    assert float((asked[1] - asked[0]).abs().min()) > 0.05
    assert float((surrogate.offset - device.moved).abs().median()) < 0.03


@pytest.mark.parametrize(
    ("make", "rate", "least"), [(bp.devices.Microring, 0.01, 0.93), (bp.devices.LightModulator, 0.01, 0.99)]
)
def test_a_device_that_drifts_is_told_from_one_that_is_not_explained(make, rate, least):
    """One setting is read again, twice; more of them would be of other places, so the first ones are kept."""
    plain = make(24, 20)
    device, surrogate, ledger = bp.devices.Drifting(plain, per_programming=rate), CalibratedResponse(), bp.Ledger()
    surrogate.bind(device.declaration)
    theta = device.theta.draw(torch.Generator().manual_seed(0))
    run(surrogate.start(theta, torch.Generator().manual_seed(0)), metered(device, ledger))
    assert ledger.programmings[bp.Purpose.CALIBRATE] == 17
    told = surrogate.diagnosis()
    assert (told["check_settings"], told["trusted"]) == (16, 1)
    leaf = (theta + device.offset).requires_grad_()
    (truth,) = torch.autograd.grad(plain.transfer(torch.eye(24), leaf).sum(), leaf)
    assert float(torch.cosine_similarity(surrogate.slope.flatten(), truth, 0)) > least


def test_a_device_that_drifts_too_far_is_said_to_move():
    device = bp.devices.Drifting(bp.devices.Microring(24, 20), per_programming=0.1)
    layer = bp.PhysicalLayer(device, generator=torch.Generator().manual_seed(0))
    with pytest.warns(CalibrationWarning, match="moves while it is calibrated"):
        layer(draw(32, 24))


@pytest.mark.parametrize("kind", ["rings at 16 settings", "rings at 48"])
def test_the_cosine_that_is_told_is_near_the_true_one(kind):
    """Resonances of any phase, most of whose power is beyond the orders that 16 settings resolve."""

    class Rings(Unlike):
        def transfer(self, x, theta, /):
            beat = -1.44 * (theta + self.turn).cos()
            ring = 2 * ((beat + 1.45) / (beat + 1.5184)).sqrt() - 1
            return x @ ring.view(*self.out_shape, *self.in_shape).T / math.sqrt(self.in_shape[0])

    device = Rings(30, 20)
    surrogate = CalibratedResponse(16) if "16" in kind else CalibratedResponse()
    theta = calibrated(device, surrogate)
    leaf = theta.clone().requires_grad_()
    (truth,) = torch.autograd.grad(device.transfer(torch.eye(30), leaf).sum(), leaf)
    cosine = float(torch.cosine_similarity(surrogate.slope.flatten(), truth, 0))
    told = surrogate.diagnosis()
    assert told["check_cosine"] == pytest.approx(cosine, abs=0.04)
    assert bool(told["trusted"]) == (cosine > 0.9)


def test_as_many_orders_are_kept_as_there_is_something_in():
    """Elements that are alike add nothing to what is common; one order, and the mean, where each is a cosine."""
    alike, unlike = CalibratedResponse(), CalibratedResponse()
    calibrated(bp.devices.LightModulator(16, 8), alike)
    assert len(alike.own) == 0
    device = Unlike(16, 8)
    theta = calibrated(device, unlike)
    assert len(unlike.own) == 2
    other = CalibratedResponse()
    other.bind(device.declaration)
    other.load_state_dict(unlike.state_dict())
    assert torch.equal(other._curves.read(theta + 1)[1], unlike._curves.read(theta + 1)[1])
