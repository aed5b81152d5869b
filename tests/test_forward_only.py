"""Multiplexed, homodyne and SPSA: their contract, and what each is known for."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import blackprop as bp
from blackprop.core import Purpose
from blackprop.errors import ArgumentError
from blackprop.optim import SPSA, FrequencyPlan, HomodyneGradient, MultiplexedGradientDescent, PerturbativeGradient
from blackprop.testing import check_optimizer
from support import draw


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def vector(*shape: int, seed: int = 0) -> nn.Parameter:
    return nn.Parameter(draw(*shape, seed=seed, dtype=torch.float64))


@pytest.mark.parametrize(
    ("method", "options", "order"),
    [
        (SPSA, {"stability": 5.0}, 2),
        (MultiplexedGradientDescent, {"perturbations": 2, "integration": 3}, 1),
        (MultiplexedGradientDescent, {"perturbations": 4, "integration": 2, "walsh": True, "momentum": 0.5}, 1),
        (MultiplexedGradientDescent, {"perturbations": 8, "integration": 2, "walsh": True}, 2),
        (HomodyneGradient, {"betas": (0.9, 0.99)}, 2),
    ],
    ids=str,
)
def test_they_keep_their_contract(method, options, order):
    def make(model, generator):
        seed = {} if method is HomodyneGradient else {"generator": generator}
        return method(model.parameters(), 0.01, **options, **seed, model=model)

    claims = dict(check_optimizer(make).claims)
    assert float(claims["bias order"]) == pytest.approx(order, rel=0.1)
    exact = method is HomodyneGradient or options.get("walsh", False)
    assert ("relative variance" in claims) != exact


# Multiplexed gradient descent.


def test_a_pass_of_walsh_codes_is_the_gradient_of_a_linear_loss():
    """13 parameters in two tensors, 16 perturbations, in one step or in several."""
    a, b, ga, gb = vector(3, 3), vector(4), draw(3, 3, dtype=torch.float64), draw(4, seed=1, dtype=torch.float64)
    for perturbations in (16, 4, 1):
        optimizer = MultiplexedGradientDescent([a, b], 1.0, 0.1, perturbations, 16 // perturbations, walsh=True)
        found = optimizer.estimate(lambda: (a * ga).sum() + b @ gb)
        for grad, truth in zip(found, (ga, gb), strict=True):
            torch.testing.assert_close(grad, truth, rtol=1e-9, atol=1e-9)
    with pytest.raises(ArgumentError, match="multiples of 16"):
        MultiplexedGradientDescent([a, b], 1.0, perturbations=3, integration=4, walsh=True)
    with pytest.raises(ArgumentError, match="multiples of 32"):
        optimizer.add_param_group({"params": [vector(7)]})
    assert len(optimizer.param_groups) == 1


def test_the_sign_turned_every_other_pass_takes_away_what_is_even():
    theta, H = vector(8), draw(8, 8, dtype=torch.float64)
    truth = (H + H.mT) @ theta.detach()
    errors = []
    for passes in (1, 2):
        optimizer = MultiplexedGradientDescent([theta], 1.0, 0.1, 8, passes, walsh=True)
        (grad,) = optimizer.estimate(lambda: theta @ H @ theta)
        errors.append(float((grad - truth).norm() / truth.norm()))
    assert errors[0] > 1e-2
    assert errors[1] < 1e-9


def test_the_angle_under_random_codes_falls_as_one_over_the_root_of_the_time():
    theta, slope = vector(40), draw(40, seed=1, dtype=torch.float64)
    times, angles = (100, 400, 1600), []
    for time in times:
        optimizer = MultiplexedGradientDescent([theta], 1.0, 1e-3, time, 1, generator=seeded(time))
        drawn = torch.stack([optimizer.estimate(lambda: theta @ slope)[0] for _ in range(2)])
        angles.append(float(torch.cosine_similarity(drawn, slope[None]).clamp(max=1).acos().tan().mean()))
        assert angles[-1] == pytest.approx(math.sqrt(39 / time), rel=0.4)
    assert math.log(angles[2] / angles[0]) / math.log(16) == pytest.approx(-0.5, abs=0.15)


def test_the_parameters_wait_for_the_time_constant_while_samples_change():
    """Each step is a sample with its own baseline; what is followed is the mean over the samples."""
    theta, samples = vector(2), draw(6, 2, dtype=torch.float64)
    start, calls = theta.detach().clone(), []
    optimizer = MultiplexedGradientDescent([theta], 0.5, 1e-4, perturbations=2, integration=6, walsh=True)
    for index, sample in enumerate(samples):
        assert torch.equal(theta, start)
        optimizer.step(lambda sample=sample, i=index: calls.append(i) or 100 * i + theta @ sample)
    torch.testing.assert_close(theta.detach(), start - 0.5 * samples.mean(0), rtol=1e-6, atol=1e-6)
    assert calls == [index for index in range(6) for _ in range(3)]


# Homodyne gradient extraction.


def test_frequencies_that_collide_are_refused_by_name():
    f = torch.tensor([10.0, 30.0, 30.0, 70.0])
    with pytest.raises(
        ArgumentError, match=r"parameters 1 and 2 collide: 30 and 30 Hz .* 0.1 s; keep them 10 Hz apart"
    ):
        FrequencyPlan(f, 0.1, 1000.0)
    with pytest.raises(ArgumentError, match="collide"):
        FrequencyPlan(torch.tensor([10.0, 14.0]), 0.1, 1000.0)
    with pytest.raises(ArgumentError, match="half the rate"):
        FrequencyPlan(torch.tensor([10.0, 60.0]), 0.1, 100.0)
    for time, rate in ((0.0, 100.0), (0.1, math.inf)):
        with pytest.raises(ArgumentError, match="positive time and rate"):
            FrequencyPlan(f, time, rate)
    with pytest.raises(ArgumentError, match="2 frequencies for 3 parameters"):
        HomodyneGradient([vector(3)], 0.1, plan=FrequencyPlan(torch.tensor([1.0, 3.0]), 1.0, 10.0))


def test_the_crosstalk_is_what_the_lock_in_picks_up():
    """Spacings that are no multiple of 1/time leak, by as much as is said; and the estimate by no more."""
    f, time, rate = torch.tensor([13.0, 27.0, 54.5], dtype=torch.float64), 0.1, 1000.0
    with pytest.raises(ArgumentError, match=r"parameter \d picks up 0\.\d+ of parameter"):
        FrequencyPlan(f, time, rate)
    plan = FrequencyPlan(f, time, rate, crosstalk=0.5)
    t = torch.arange(plan.readings, dtype=torch.float64) / rate
    s = (2 * math.pi * f[:, None] * t).sin()
    X = 2 / plan.readings * s @ s.mT
    worst, i, j = plan._worst()
    assert worst == pytest.approx(float((X - torch.eye(3)).abs().max()))
    assert abs(float(X[i, j]) - (i == j)) == pytest.approx(worst)
    longer = FrequencyPlan(f, 2.0, rate)  # whole periods
    assert longer._worst()[0] == 0
    assert longer.readings == 2000
    theta, slope = vector(3), torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64)
    (found,) = HomodyneGradient([theta], 0.1, plan=FrequencyPlan(10 * torch.tensor([3, 1, 7]), 0.1, 400.0)).estimate(
        lambda: theta @ slope
    )
    torch.testing.assert_close(found, slope)


def test_products_of_the_odd_plan_fall_on_no_channel_and_a_lag_does_no_harm():
    """What a curved loss adds at 2f and f ± f' is not heard even where the instrument lags, unlike on a dense plan."""
    P, lag = 5, 0.4
    odd, dense = FrequencyPlan.odd(P), FrequencyPlan(torch.arange(1.0, P + 1), 1.0, 20.0)
    assert odd.readings == dense.readings == 4 * P
    theta, H = vector(P), draw(P, P, dtype=torch.float64)
    heard = []
    for plan in (odd, dense):
        t = torch.arange(plan.readings, dtype=torch.float64) / plan.rate
        swing = (2 * math.pi * plan.frequencies[:, None] * (t - lag / plan.rate)).sin()  # (P, N), late
        quadratic = ((H @ swing) * swing).sum(0)
        heard.append(
            float((2 / plan.readings * (2 * math.pi * plan.frequencies[:, None] * t).sin() @ quadratic).norm())
        )
    assert heard[0] < 1e-9
    assert heard[1] > 0.1
    (found,) = HomodyneGradient([theta], 0.1, 0.5).estimate(lambda: theta @ H @ theta)
    torch.testing.assert_close(found, (H + H.mT) @ theta.detach())


def test_noise_in_the_loss_leaves_the_declared_error():
    theta, slope, noise, sigma, delta = vector(20), draw(20, dtype=torch.float64), seeded(3), 0.2, 0.05
    optimizer = HomodyneGradient([theta], 0.1, delta)
    drawn = torch.stack(
        [optimizer.estimate(lambda: theta @ slope + sigma * torch.randn((), generator=noise))[0] for _ in range(10)]
    )
    assert optimizer.passes == 80
    error = float((drawn - slope).square().mean().sqrt())
    assert error == pytest.approx(sigma * math.sqrt(2 / 80) / delta, rel=0.2)


# SPSA.


def test_the_gains_are_the_textbooks():
    theta, a, c, A = vector(6), 0.3, 0.2, 10.0
    optimizer = SPSA([theta], a, c, A, generator=seeded())
    for k in range(1, 6):
        start, ends = theta.detach().clone(), []
        optimizer.step(lambda ends=ends: ends.append(theta.detach().clone()) or theta.exp().sum())
        above, below = ends
        c_k, a_k = c / k**0.101, a / (A + k) ** 0.602
        torch.testing.assert_close((above - start).abs(), torch.full_like(start, c_k))
        torch.testing.assert_close(above - start, start - below)
        estimate = (above.exp().sum() - below.exp().sum()) / (above - below)
        torch.testing.assert_close(theta.detach(), start - a_k * estimate)
    with pytest.raises(ArgumentError, match="stability"):
        SPSA([theta], a, c, -1.0)


def test_spsa_converges_where_the_loss_is_noisy():
    """The gains fall, so it comes to rest where the same steps without falling gains keep wandering."""
    ends = []
    for falling in (True, False):
        theta, noise = nn.Parameter(torch.ones(10)), seeded(5)
        gains = {} if falling else {"alpha": 0.0, "gamma": 0.0}
        optimizer = SPSA([theta], 0.1, 0.2, 20.0 if falling else 0.0, generator=seeded(), **gains)
        late = []
        for _ in range(800):
            optimizer.step(lambda p=theta, n=noise: p.square().sum() + 0.1 * torch.randn((), generator=n))
            late.append(float(theta.detach().square().sum()))
        ends.append(sum(late[-100:]) / 100)
    assert ends[0] < 0.05 * 10
    assert ends[0] < 0.25 * ends[1]


@pytest.mark.parametrize(
    ("method", "options", "words"),
    [
        (MultiplexedGradientDescent, {"perturbations": 0}, "perturbations"),
        (MultiplexedGradientDescent, {"integration": 0}, "integration"),
        (SPSA, {"lr": -1.0}, "lr"),
        (HomodyneGradient, {"delta": 0.0}, "delta"),
    ],
    ids=str,
)
def test_options_that_cannot_be_used_are_refused_at_construction(method, options, words):
    with pytest.raises(ArgumentError, match=rf"{method.__name__}\({words}"):
        method([vector(2)], **{"lr": 0.1, **options})


@pytest.mark.parametrize("method", [PerturbativeGradient, SPSA, MultiplexedGradientDescent, HomodyneGradient])
def test_a_device_alone_is_trained_by_each_and_asked_as_often_as_is_said(method):
    layer = bp.PhysicalLayer(bp.devices.LightModulator(3, 2), *bp.presets.paper(1, 1), generator=seeded())
    x, steps = draw(8, 3), 20
    wanted = (x @ draw(3, 2, seed=1) / 4).detach()

    def loss() -> torch.Tensor:
        return (layer(x) - wanted).square().mean()

    more = {} if method is HomodyneGradient else {"generator": seeded(1)}
    more |= {"integration": 2} if method is MultiplexedGradientDescent else {}
    optimizer = method([layer.theta], 0.5, 0.02, **more, model=layer)
    losses = [float(optimizer.step(loss)) for _ in range(steps)]
    assert min(losses[-3:]) < 0.7 * losses[0]
    assert dict(layer.ledger.rows) == {Purpose.FORWARD: 8 * optimizer.passes * steps}
