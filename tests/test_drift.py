"""Drift: the free residual says that a device has moved, what finding it again may cost, and what is told of it."""

from __future__ import annotations

import logging
import warnings
from dataclasses import replace

import pytest
import torch

import blackprop as bp
from blackprop import twins
from blackprop.core import Purpose, metered, run
from blackprop.devices import LightModulator, Microring, Noisy, Quantised
from blackprop.errors import ArgumentError, BlackpropWarning
from blackprop.surrogates import CalibratedResponse, Twin
from blackprop.surrogates._monitor import AGAIN, FOUND, KEPT, Monitor
from blackprop.surrogates.calibration._calibration import Range, calibrate
from support import draw


class Displaced(bp.devices.Wrapper):
    """A device whose settings come out as θ + shift; the shift is moved by hand."""

    def __init__(self, device):
        super().__init__(device)
        self.shift = torch.zeros(device.theta.size)

    def _setting(self, theta, fresh):
        return theta + self.shift


def layer_on(device, **options):
    surrogate = CalibratedResponse(**options)
    generator = torch.Generator().manual_seed(0)
    return bp.PhysicalLayer(device, surrogate=surrogate, generator=generator)


def train(layer, steps, first=0, rows=16, lr=0.01):
    optimizer = torch.optim.SGD([layer.theta], lr=lr)
    for seed in range(first, first + steps):
        optimizer.zero_grad()
        layer(draw(rows, *layer.in_shape, seed=seed)).square().mean().backward()
        optimizer.step()


def cosine(layer, shift):
    """Of the surrogate's θ-gradient to the true one."""
    x, g, theta = draw(64, *layer.in_shape, seed=7), draw(64, *layer.out_shape, seed=8), layer.surrogate.theta
    leaf = (theta + shift).detach().requires_grad_()
    (truth,) = torch.autograd.grad(layer.device.device.oracle()(x, leaf), leaf, g)
    return float(torch.cosine_similarity(layer.surrogate.grad_theta(x, g), truth, 0))


@pytest.mark.parametrize("kind", [LightModulator, Microring])
@pytest.mark.parametrize("noise", [0.0, 0.02])
def test_elements_are_found_on_their_curves_for_two_settings(kind, noise):
    device = Displaced(Noisy(kind(24, 20), read=noise))
    layer, still = layer_on(device), layer_on(device, watch=None)
    for each in (layer, still):
        train(each, 5)
    device.shift = 0.15 * draw(480, seed=3)
    for each in (layer, still):
        device.forget()
        train(each, 3, first=5)
    assert layer.ledger.programmings[Purpose.CALIBRATE] == 17  # 16 and 1: the batch has programmed the other
    assert layer.ledger.rows[Purpose.CALIBRATE] == (16 + 2) * 24
    found = layer.surrogate.offset
    error = float((found - device.shift).square().mean().sqrt()) / 0.15
    assert error < (0.35 if noise else 0.1)
    assert cosine(layer, device.shift) > (0.97 if noise else 0.995)
    assert cosine(layer, device.shift) > cosine(still, device.shift)
    assert [event.what for event in layer.surrogate.monitor.events] == [FOUND]


def test_theta_is_moved_against_the_displacement_so_that_the_device_stands_where_it_stood():
    device = Displaced(Microring(24, 20))
    layer = layer_on(device)
    train(layer, 5)
    theta = layer.theta.detach().clone()
    device.shift = 0.15 * draw(480, seed=3)
    device.forget()
    train(layer, 4, first=5, lr=1e-5)
    assert float((layer.theta.detach() + device.shift - theta).norm()) < 0.15 * float(device.shift.norm())
    known = layer.surrogate.compensate_drift(theta)
    assert torch.equal(known, theta)  # it is said once


@pytest.mark.parametrize(
    "device",
    [
        LightModulator(24, 20),
        Noisy(LightModulator(24, 20), read=0.02),
        Noisy(Microring(24, 20), read=0.02),
        Quantised(LightModulator(24, 20), theta_bits=6),
        Quantised(Microring(24, 20), theta_bits=6, output_bits=6),
    ],
    ids=str,
)
def test_a_device_that_stands_still_is_left_alone(device):
    layer = layer_on(device)
    train(layer, 150, lr=0.3)
    assert layer.surrogate.monitor.events == []
    assert layer.ledger.programmings[Purpose.CALIBRATE] == 16


def test_what_finding_costs_stays_within_its_share(caplog):
    """A device that comes to jump at every step: warned of once, and never more rows than allowed."""
    device = Displaced(Microring(24, 20))
    layer = layer_on(device, settings=4, share=0.1)
    caplog.set_level(logging.INFO, logger="blackprop")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for step in range(60):
            device.shift = 0.3 * draw(480, seed=step) * (step > 5)
            device.forget()
            train(layer, 1, first=step)
    told = [each for each in caught if issubclass(each.category, BlackpropWarning)]
    assert len(told) == 1
    assert "share=0.1" in str(told[0].message)
    spent = layer.ledger.rows[Purpose.CALIBRATE] - 4 * 24
    assert 0 < spent <= (4 + 2) * 24 + 0.1 * 60 * 16
    diagnosis = bp.diagnose(layer)[""].details
    assert diagnosis["moved_rows"] == spent
    assert diagnosis["moved_programmings"] >= diagnosis["moved"] > 0
    assert len(caplog.records) == diagnosis["moved"] == len(layer.surrogate.monitor.events)


def test_a_response_of_another_shape_is_calibrated_again():
    class Fading(Microring):
        gain = 1.0

        def transfer(self, x, theta, /):
            return self.gain * super().transfer(x, theta)

    device = Fading(24, 20)
    layer = layer_on(device)
    train(layer, 5)
    device.gain = 0.6
    train(layer, 5, first=5)
    assert AGAIN in [event.what for event in layer.surrogate.monitor.events]
    assert layer.surrogate.verdict.excess < 3


def test_a_twin_keeps_its_budget_and_its_log():
    device = Displaced(Microring(8, 6))
    twin = Twin(twins.MicroringTwin(device), settings=16, rows=10, fit_steps=150, lr=0.05, online_steps=0, share=0.0)
    layer = bp.PhysicalLayer(
        device, bp.estimators.FromSurrogate(twin), twin, generator=torch.Generator().manual_seed(0)
    )
    train(layer, 30)
    assert twin.monitor.events == []
    device.shift = 0.8 * draw(48, seed=3)
    train(layer, 30, first=30)
    assert [(e.what, e.rows, e.programmings) for e in twin.monitor.events] == [(AGAIN, 160, 16)]
    assert twin.diagnosis()["moved_allowance"] == 0
    device.shift = 0.8 * draw(48, seed=4)
    with pytest.warns(BlackpropWarning, match="share=0"):
        train(layer, 30, first=60)
    assert len(twin.monitor.events) == 1


def test_it_goes_on_from_its_state_alike():
    def pair():
        device = Displaced(Microring(24, 20))
        return device, layer_on(device, share=2.0)

    device, layer = pair()
    train(layer, 5)
    device.shift = 0.15 * draw(480, seed=3)
    device.forget()
    train(layer, 4, first=5)
    other_device, other = pair()
    other_device.shift = device.shift
    other.load_state_dict(layer.state_dict())
    assert other.surrogate.monitor.events == layer.surrogate.monitor.events != []
    for each in (device, other_device):
        each.shift = 0.2 * draw(480, seed=4)
        each.forget()
    for each in (layer, other):
        train(each, 4, first=9)
    assert torch.equal(layer.theta, other.theta)
    assert other.surrogate.monitor.events == layer.surrogate.monitor.events
    assert layer.surrogate.diagnosis() == other.surrogate.diagnosis()


def test_the_log_keeps_the_latest():
    monitor = Monitor(0.5)
    for _ in range(KEPT + 3):
        monitor.saw(10)
        monitor.spend("a device", FOUND, 4.0, 2, 1)
    assert len(monitor.events) == KEPT
    assert [monitor.events[0].batch, monitor.events[-1].batch] == [4, KEPT + 3]
    assert monitor.diagnosis()["moved_rows"] == 2 * (KEPT + 3)


def test_wrong_shares_are_refused():
    with pytest.raises(ArgumentError, match="share"):
        CalibratedResponse(share=-0.1)
    with pytest.raises(ArgumentError, match="share"):
        Twin(twins.MicroringTwin(Microring(4, 3)), share=float("nan"))


@pytest.mark.parametrize("settings", [4, 16])
def test_known_curves_are_kept_where_they_explain_new_settings_or_do_so_better_than_the_new_ones(settings):
    """What new settings say: all elements are found on the known curves from half of them, and the others agree."""

    class Fading(LightModulator):
        gain = 1.0

        def transfer(self, x, theta, /):
            return self.gain * super().transfer(x, theta)

    device = Displaced(Fading(24, 20))
    surrogate = CalibratedResponse()
    surrogate.bind(device.declaration)
    generator, measure = torch.Generator().manual_seed(0), metered(device, bp.Ledger())
    theta = device.theta.draw(generator)
    run(surrogate.start(theta, generator), measure)
    device.shift = 0.15 * draw(480, seed=3)
    range_ = Range.of(device.declaration, theta, per_element=False)

    def asked(left: float):
        device.forget()
        how = {"settings": settings, "calls": 1, "harmonics": 32}
        new = run(calibrate(device.declaration, range_, None, theta, generator, **how), measure)
        return replace(new, trust=replace(new.trust, left=left))

    assert surrogate._found_on_old(asked(left=0.0))
    assert float((surrogate.offset - device.shift).square().mean().sqrt()) < 0.1 * 0.15
    device.device.gain = 0.6
    found = surrogate.offset.clone()
    assert not surrogate._found_on_old(asked(left=0.0))
    assert torch.equal(surrogate.offset, found)
    assert surrogate._found_on_old(asked(left=100.0))  # which would be worse


def test_two_readings_that_leave_doubt_move_no_element_far():
    """Of a sharp resonance they fit several places: on average, elements are then put no further off than they are."""
    errors = []
    for seed in range(4):
        device, surrogate = Displaced(Microring(24, 20)), CalibratedResponse()
        surrogate.bind(device.declaration)
        generator, measure = torch.Generator().manual_seed(seed), metered(device, bp.Ledger())
        theta = device.theta.draw(generator)
        run(surrogate.start(theta, generator), measure)
        device.shift = 0.15 * draw(480, seed=30 + seed)
        device.forget()
        range_ = Range.of(device.declaration, theta, per_element=False)
        how = {"settings": 4, "calls": 1, "harmonics": 32}
        new = run(calibrate(device.declaration, range_, None, theta, generator, **how), measure)
        surrogate._found_on_old(replace(new, trust=replace(new.trust, left=100.0)))
        errors.append((surrogate.offset - device.shift).square().mean())
        assert float((surrogate.offset - device.shift).abs().median()) < 0.03
    assert float(torch.stack(errors).mean().sqrt()) < 1.2 * 0.15
