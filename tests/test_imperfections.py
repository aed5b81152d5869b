"""Noise, coarse converters and drift act on every query alike."""

from __future__ import annotations

import math

import pytest
import torch

import blackprop as bp
from blackprop.core import Purpose, Query
from blackprop.devices import Drifting, LightModulator, Matrix, Noisy, Quantised
from blackprop.errors import ArgumentError
from blackprop.planning._methods import step_size
from support import draw


def _ask(device: bp.Device, x: torch.Tensor, *thetas: torch.Tensor, purpose: Purpose = Purpose.FORWARD):
    return device.measure([Query(x, theta, purpose) for theta in thetas])


@pytest.mark.parametrize("purpose", list(Purpose))
def test_read_noise_is_relative_to_the_output_scale_whoever_asks(purpose):
    plain = LightModulator(20, 50)
    theta, x = plain.theta.draw(torch.Generator().manual_seed(0)), draw(200, 20)
    clean = plain.transfer(x, theta)
    device = Noisy(plain, read=0.02)
    (noisy,) = _ask(device, x, theta, purpose=purpose)
    scale = float(clean.square().mean().sqrt())
    assert float((noisy - clean).std()) == pytest.approx(0.02 * scale, rel=0.05)
    # Weak probes meet the same noise: the scale is the detector's and not the query's.
    (weak,) = _ask(device, 1e-3 * x, theta, purpose=purpose)
    assert float((weak - 1e-3 * clean).std()) == pytest.approx(0.02 * scale, rel=0.05)


def test_noise_is_new_at_every_reading_and_repeats_with_its_seed():
    plain = LightModulator(6, 4)
    theta, x = plain.theta.draw(torch.Generator().manual_seed(0)), draw(5, 6)
    a, b = _ask(Noisy(plain, read=0.1), x, theta, theta)
    assert not torch.equal(a, b)
    assert torch.equal(a, _ask(Noisy(plain, read=0.1), x, theta)[0])
    assert not torch.equal(a, _ask(Noisy(plain, read=0.1, seed=1), x, theta)[0])


def test_proportional_noise_is_the_published_one():
    plain = LightModulator(20, 50)
    theta, x = plain.theta.draw(torch.Generator().manual_seed(0)), draw(400, 20)
    clean = plain.transfer(x, theta)
    (noisy,) = _ask(Noisy(plain, proportional=0.1), x, theta)
    assert float(((noisy - clean) / clean).std()) == pytest.approx(0.1, rel=0.05)


def test_quantised_settings_inputs_and_outputs_lie_on_their_levels():
    seen = []

    def fn(x, theta):
        seen.append((x, theta))
        return x * theta

    inner = bp.devices.from_callable(fn, in_shape=50, out_shape=50, theta_size=50, low=0.0, high=1.0)
    device = Quantised(inner, input_bits=2, theta_bits=3, output_bits=4, input_range=(-1, 1), output_range=(-2, 2))
    (y,) = _ask(device, 2 * draw(8, 50), torch.rand(50, generator=torch.Generator().manual_seed(0)))
    (x, theta) = seen[0]
    assert set(x.unique().tolist()) == {-1.0, 0.0, 1.0}  # signed: with a level at zero
    torch.testing.assert_close(theta * 7, (theta * 7).round())
    torch.testing.assert_close(y * 7 / 2, (y * 7 / 2).round(), atol=1e-5, rtol=0)


def test_a_periodic_setting_has_two_to_the_bits_levels_a_period():
    device = Quantised(LightModulator(4, 1), theta_bits=2)
    x = 2 * torch.eye(4)
    (y,) = _ask(device, x, torch.tensor([0.1, math.pi / 2 + 0.1, math.pi - 0.1, 2 * math.pi - 0.1]))
    torch.testing.assert_close(y[:, 0], torch.tensor([1.0, 0.0, -1.0, 1.0]), atol=1e-6, rtol=0)


def test_perturbations_are_rounded_like_everything_else():
    """A step far under a level moves nothing: the gradient is then zero, and the device's fault is not hidden."""
    device = Quantised(LightModulator(6, 4), theta_bits=4)
    layer = bp.PhysicalLayer(device, *bp.presets.paper(rank=2, samples=5))
    with torch.no_grad():
        layer.theta.fill_(math.pi / 8)
    layer(draw(3, 6)).sum().backward()
    assert float(layer.theta.grad.abs().max()) < 0.01  # float32 rounding over a step of 1e-4, and no more


def test_the_oracle_of_a_quantised_device_passes_straight_through():
    plain = LightModulator(6, 4)
    layer = bp.PhysicalLayer(Quantised(plain, theta_bits=4), *bp.presets.oracle())
    x = draw(3, 6).requires_grad_()
    layer(x).sum().backward()
    quantum = 2 * math.pi / 16
    theta = ((layer.theta.detach() / quantum).round() * quantum).requires_grad_()
    plain.transfer(x.detach(), theta).sum().backward()
    torch.testing.assert_close(layer.theta.grad, theta.grad)


def test_drift_walks_with_programmings():
    device = Drifting(Matrix(30, 30), per_programming=0.1, seed=1)
    theta = torch.zeros(900)
    others = [theta + k for k in range(1, 101)]
    offsets = [(y - k).flatten() for k, y in enumerate(_ask(device, torch.eye(30), *others), 1)]
    assert float(offsets[0].std()) == pytest.approx(0.1, rel=0.15)
    assert float(offsets[-1].std()) == pytest.approx(1.0, rel=0.15)
    a, b = _ask(device, torch.eye(30), others[-1], others[-1])  # held, so not written again
    assert torch.equal(a, b)


def test_drift_walks_with_time():
    now = [0.0]
    device = Drifting(Matrix(30, 30), per_root_second=0.1, clock=lambda: now[0])
    theta, unit = torch.zeros(900), torch.eye(30)
    (still,) = _ask(device, unit, theta)
    assert not still.any()
    now[0] = 100.0
    (moved,) = _ask(device, unit, theta)  # the same setting, later
    assert float(moved.std()) == pytest.approx(1.0, rel=0.1)


def test_the_time_before_a_state_was_loaded_is_not_drifted():
    """A checkpoint stands on another machine's clock, or on none: the walk goes on from the moment of loading."""
    now = [0.0]
    device = Drifting(Matrix(30, 30), per_root_second=0.1, initial=0.5, clock=lambda: now[0])
    theta, unit = torch.zeros(900), torch.eye(30)
    (before,) = _ask(device, unit, theta)
    state = device.state_dict()
    other = Drifting(Matrix(30, 30), per_root_second=0.1, clock=lambda: now[0], seed=3)
    now[0] = 1e6
    other.load_state_dict(state)
    (after,) = _ask(other, unit, theta)
    assert torch.equal(after, before)
    now[0] += 100.0
    (later,) = _ask(other, unit, theta)
    assert float((later - before).std()) == pytest.approx(1.0, rel=0.1)


def test_wrapped_devices_are_still_served_in_batches():
    calls = []

    class Counting(LightModulator):
        def transfer(self, x, theta, /):
            calls.append(theta.shape)
            return super().transfer(x, theta)

    device = Noisy(Drifting(Quantised(Counting(6, 4), theta_bits=8), per_programming=0.01), read=0.01)
    _ask(device, draw(3, 6), *draw(50, 24))
    assert calls == [(50, 24)]


def test_the_two_verbs_go_through_the_wrapper():
    device = Quantised(LightModulator(4, 1), theta_bits=2, output_bits=8, output_range=(-1, 1))
    device.program(torch.full((4,), 0.1))
    torch.testing.assert_close(device.read(torch.ones(1, 4) / 2), torch.ones(1, 1))


@pytest.mark.parametrize(
    "make",
    [
        lambda d: Noisy(d, read=-0.1),
        lambda d: Noisy(d, scale=-1.0),
        lambda d: Quantised(d, theta_bits=0),
        lambda d: Quantised(d, input_bits=-3),
        lambda d: Quantised(d, output_bits=8, output_range=(1.0, 1.0)),
        lambda d: Quantised(Matrix(3, 3), theta_bits=4),
        lambda d: Drifting(d, per_programming=-1.0),
    ],
)
def test_impossible_imperfections_are_refused(make):
    with pytest.raises(ArgumentError):
        make(LightModulator(4, 3))


@pytest.mark.parametrize(("high", "bits"), [(3.3, 2), (3.3, 5), (0.1, 2), (6.0, 2)])
def test_a_rounded_setting_stays_within_the_limits(high, bits):
    seen = []

    def fn(x, theta):
        seen.append(theta)
        return x * theta

    period = 2 * math.pi if high == 6.0 else None
    inner = bp.devices.from_callable(fn, in_shape=1, out_shape=1, theta_size=1, low=0.0, high=high, period=period)
    _ask(Quantised(inner, theta_bits=bits), torch.ones(1, 1), torch.tensor([high]))
    inner.theta.check(seen[0])


@pytest.mark.parametrize("first", [0.0, math.nan])
def test_a_range_is_not_set_by_rows_that_say_nothing(first):
    inner = bp.devices.from_callable(lambda x, theta: x, in_shape=3, out_shape=3, theta_size=1)
    for device in (Noisy(inner, read=0.1), Quantised(inner, output_bits=8, input_bits=8)):
        _ask(device, torch.full((2, 3), first), torch.zeros(1))
        (y,) = _ask(device, draw(50, 3), torch.zeros(1))
        assert bool(y.isfinite().all())
        assert 0.001 < float((y - draw(50, 3)).std()) < 0.2


def test_a_range_of_its_own_is_widened_when_more_comes():
    inner = bp.devices.from_callable(lambda x, theta: x, in_shape=3, out_shape=3, theta_size=1)
    device = Quantised(inner, output_bits=8)
    _ask(device, draw(50, 3), torch.zeros(1))
    (y,) = _ask(device, 10 * draw(50, 3), torch.zeros(1))
    peak = float((10 * draw(50, 3)).abs().max())
    torch.testing.assert_close(y, 10 * draw(50, 3), atol=0.51 * peak / 127, rtol=0)
    fixed = Quantised(inner, output_bits=8, output_range=(-1.0, 1.0))
    assert float(_ask(fixed, 10 * draw(50, 3), torch.zeros(1))[0].abs().max()) == 1.0


def test_noise_is_declared_and_sets_the_step_of_differences():
    quiet = bp.devices.Microring(6, 4)
    loud = bp.devices.Noisy(bp.devices.Noisy(quiet, read=0.012), proportional=0.016)
    assert (quiet.declaration.noise, loud.declaration.noise) == (0.0, pytest.approx(0.02))
    steps = [step_size(device.declaration) for device in (quiet, loud)]
    assert steps == pytest.approx([0.01, 0.7 * 0.02**0.5])
    with pytest.raises(bp.errors.ArgumentError, match=r"`_Callable\(noise=\.\.\.\)` must be finite"):
        bp.devices.from_callable(lambda x, theta: x, in_shape=2, out_shape=2, theta_size=1, noise=-1.0)


def test_evaluation_draws_from_a_stream_of_its_own():
    """Training reads the same noise however often it is evaluated between; evaluations differ from each other."""
    plain = LightModulator(6, 4)
    theta, x = plain.theta.draw(torch.Generator().manual_seed(0)), draw(5, 6)

    def trained(evaluations: int) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        device, read, seen = Noisy(plain, read=0.1, proportional=0.1), [], []
        for _ in range(3):
            read += _ask(device, x, theta)
            seen += [_ask(device, x, theta, purpose=Purpose.EVALUATE)[0] for _ in range(evaluations)]
        return read, seen

    (none, _), (many, seen) = trained(0), trained(2)
    assert all(torch.equal(a, b) for a, b in zip(none, many, strict=True))
    assert len({tuple(y.flatten().tolist()) for y in [*many, *seen]}) == 9
