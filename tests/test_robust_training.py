"""Training for other chips: samples of a family, and steps against the worst neighbour."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import blackprop as bp
from blackprop.deployment import SampledChips
from blackprop.devices import ImperfectMZIMesh, MZIMesh, Noisy
from blackprop.errors import ArgumentError, IncompatibleError
from support import draw

N = 6


def family(seed: int) -> ImperfectMZIMesh:
    return ImperfectMZIMesh(N, 4, phase=0.1, splitter=0.05, seed=seed)


def layer(device: bp.Device) -> bp.PhysicalLayer:
    oracles = bp.estimators.Oracle(), bp.surrogates.Oracle()
    return bp.PhysicalLayer(device, *oracles, generator=torch.Generator().manual_seed(0))


# Samples.


def test_each_setting_in_training_meets_another_chip_and_evaluation_the_design():
    device = SampledChips(MZIMesh(N, 4), family)
    made, x = layer(device), draw(5, N)
    with torch.no_grad():
        first, again = made(x), made(x)
        made.theta.data += 1e-9 + torch.zeros_like(made.theta)
        made.theta.data[0] += 1e-3
        other = made(x)
        assert torch.equal(first, again)
        assert (other - first).norm() > 0.02 * first.norm()
        design = MZIMesh(N, 4).transfer(x, made.theta)
        assert torch.allclose(made.eval()(x), design, atol=1e-6)
        made.train()
        assert not torch.allclose(made(x), design, atol=1e-2)


def test_the_oracle_differentiates_the_chip_that_was_read():
    device = SampledChips(MZIMesh(N, 4), family)
    made, x = layer(device).double(), draw(5, N).double()
    for _ in range(2):
        made.theta.grad = None
        made(x).square().sum().backward()
        theta = made.theta.detach().clone().requires_grad_()
        device._chip.transfer(x, theta).square().sum().backward()
        assert torch.allclose(made.theta.grad, theta.grad)
        made.theta.data += 0.1


def test_the_draws_have_mean_and_variance_of_the_family():
    device = SampledChips(MZIMesh(N, 4), family)
    theta, x = draw(30, seed=1), draw(4, N)
    query = [bp.Query(x, theta, bp.Purpose.FORWARD)]
    readings = []
    for _ in range(300):
        device.forget()
        readings += device.measure(query)
    found = torch.stack(readings)
    truth = torch.stack([family(1000 + k).transfer(x, theta) for k in range(300)])
    error = (found.var(0) / 300 + truth.var(0) / 300).sqrt()
    assert float(((found.mean(0) - truth.mean(0)) / error).abs().max()) < 4.5
    assert float(found.var(0).mean() / truth.var(0).mean()) == pytest.approx(1, abs=0.15)


def test_a_resumed_run_meets_the_same_chips():
    made = SampledChips(MZIMesh(N, 4), family, seed=3)
    theta, x = draw(30, seed=1), draw(4, N)
    made.measure([bp.Query(x, theta, bp.Purpose.FORWARD)])
    state = copy.deepcopy(made.state_dict())
    other = SampledChips(MZIMesh(N, 4), family, seed=9)
    other.load_state_dict(state)
    query = [bp.Query(x, theta + 0.1, bp.Purpose.FORWARD)]
    assert torch.equal(made.measure(query)[0], other.measure(query)[0])


def test_deploy_takes_the_design_of_sampled_chips():
    made = nn.Sequential(layer(Noisy(SampledChips(MZIMesh(N, 4), family), read=0.01)))
    report = bp.deploy(made, family(77), draw(80, N), steps=4)
    assert report.after.loss < 0.1 * report.before.loss


def test_wrong_families_are_refused():
    with pytest.raises(ArgumentError, match="takes a Simulator"):
        SampledChips(Noisy(MZIMesh(N, 4)), family)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ArgumentError, match="returns simulators"):
        SampledChips(MZIMesh(N, 4), lambda seed: seed)  # pyright: ignore[reportArgumentType, reportReturnType]
    with pytest.raises(IncompatibleError, match="does not fit"):
        SampledChips(MZIMesh(N, 4), lambda seed: MZIMesh(N, 3))


def test_sampled_training_serves_other_chips_better_than_plain():
    """Twelve chips that neither training has met; the gain of the mean is three standard errors or more."""
    x = draw(200, N, seed=2)
    target = MZIMesh(N, 4).transfer(x, 3 * draw(30, seed=8)).argmax(1)  # classes that the design can tell apart

    def spread(seed: int) -> ImperfectMZIMesh:
        return ImperfectMZIMesh(N, 4, phase=0.2, splitter=0.05, seed=seed)

    losses = []
    for device in (MZIMesh(N, 4), SampledChips(MZIMesh(N, 4), spread)):
        made = layer(device)
        made.theta.data = 6.28 * torch.rand(30, generator=torch.Generator().manual_seed(1))
        made.gain.data.fill_(8.0)
        optimizer = torch.optim.Adam(made.parameters(), lr=0.03)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 300)
        for _ in range(300):
            optimizer.zero_grad()
            nn.functional.cross_entropy(made(x), target).backward()
            optimizer.step()
            schedule.step()
        theta, gain = made.theta.detach(), made.gain.detach()
        others = [gain * spread(5000 + k).transfer(x, theta) for k in range(12)]
        losses.append(torch.stack([nn.functional.cross_entropy(y, target) for y in others]))
    gained = losses[0] - losses[1]
    assert float(gained.mean()) > 3 * float(gained.std()) / 12**0.5


# Steps against the worst neighbour.


class Quadratic(bp.Simulator):
    """`y = θᵀ H θ / 2 · x`, so that gradients at displaced settings are known."""

    def __init__(self, hessian: torch.Tensor) -> None:
        super().__init__(1, 1, bp.ThetaSpec(len(hessian), lambda g: torch.ones(len(hessian))))
        self.hessian = hessian

    def transfer(self, x, theta, /):
        return x * (theta @ self.hessian.to(theta) @ theta / 2)


def test_the_gradient_is_that_at_the_displaced_setting():
    hessian = torch.diag(torch.tensor([4.0, 1.0, 0.0]))
    made, x = layer(Quadratic(hessian)), torch.ones(1, 1)
    optimizer = bp.optim.SharpnessAware(torch.optim.SGD([made.theta], lr=0.1), made, radius=0.5)
    theta = made.theta.detach().clone()
    calls = []

    def closure():
        optimizer.zero_grad()
        loss = made(x).sum()
        loss.backward()
        calls.append(float(loss.detach()))
        return loss

    loss = optimizer.step(closure)
    grad = hessian @ theta
    displaced = theta + 0.5 * grad / grad.norm()
    assert torch.allclose(made.theta, theta - 0.1 * hessian @ displaced)
    assert float(loss.detach()) == calls[0] == pytest.approx(float(theta @ hessian @ theta / 2))
    assert calls[1] == pytest.approx(float(displaced @ hessian @ displaced / 2))
    assert made.ledger.total_programmings == 2


def test_a_failure_in_the_second_pass_leaves_the_setting():
    made, x = layer(MZIMesh(N, 4)), draw(5, N)
    optimizer = bp.optim.SharpnessAware(torch.optim.Adam(made.parameters()), made)
    before, calls = made.theta.detach().clone(), []

    def closure():
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        loss = made(x).square().sum()
        loss.backward()
        return loss

    with pytest.raises(KeyboardInterrupt):
        optimizer.step(closure)
    assert torch.equal(made.theta, before)


def test_it_works_with_a_method_that_queries_and_with_a_schedule_and_resumes():
    made = bp.PhysicalLayer(bp.devices.Microring(N, 4), generator=torch.Generator().manual_seed(0))
    inner = torch.optim.Adam(made.parameters(), lr=0.1)
    optimizer = bp.optim.SharpnessAware(inner, made, radius=0.1)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)
    x = draw(5, N)

    def closure():
        optimizer.zero_grad()
        loss = made(x).square().sum()
        loss.backward()
        return loss

    first = float(optimizer.step(closure).detach())
    schedule.step()
    assert inner.param_groups[0]["lr"] == 0.05
    for _ in range(3):
        last = float(optimizer.step(closure).detach())
    assert last < first
    other = bp.optim.SharpnessAware(torch.optim.Adam(made.parameters(), lr=0.1), made)
    other.load_state_dict(optimizer.state_dict())
    assert other.param_groups[0]["lr"] == 0.05


def test_zero_gradients_make_the_inner_step():
    made = layer(MZIMesh(N, 4))
    optimizer = bp.optim.SharpnessAware(torch.optim.SGD(made.parameters(), lr=0.1), made)
    before = made.theta.detach().clone()

    def closure():
        optimizer.zero_grad()
        loss = 0 * made(draw(5, N)).sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    assert torch.equal(made.theta, before)


def test_wrong_optimizers_are_refused():
    made, free = layer(MZIMesh(N, 4)), nn.Linear(2, 2)
    inner = torch.optim.SGD(made.parameters(), lr=0.1)
    for make, match in (
        (lambda: bp.optim.SharpnessAware("adam", made), "torch optimizer"),  # pyright: ignore[reportArgumentType]
        (lambda: bp.optim.SharpnessAware(inner, made, radius=0.0), "radius"),
        (lambda: bp.optim.SharpnessAware(torch.optim.SGD(free.parameters(), lr=0.1), made), "none of its layers"),
        (lambda: bp.optim.SharpnessAware(inner, made).step(), "closure"),
        (lambda: bp.optim.SharpnessAware(inner, made).add_param_group({"params": [free.weight]}), "no further"),
    ):
        with pytest.raises(ArgumentError, match=match):
            make()
