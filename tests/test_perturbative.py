"""Perturbative gradient training: the law, the rate, whole networks around a black box, and nothing left behind."""

from __future__ import annotations

import math
import weakref

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import blackprop as bp
from blackprop.core import Purpose
from blackprop.errors import (
    ArgumentError,
    BlackpropError,
    CheckpointError,
    ContractError,
    IncompatibleError,
    ReadingError,
    ShapeError,
)
from blackprop.optim import PerturbativeGradient
from blackprop.optim._displacement import Place
from blackprop.testing import check_optimizer
from support import Opaque, draw


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def values(parameters) -> list[torch.Tensor]:
    return [p.detach().clone() for p in parameters]


def unchanged(parameters, before) -> bool:
    return all(torch.equal(p, old) for p, old in zip(parameters, before, strict=True))


@pytest.mark.parametrize(
    "options",
    [
        {"keep": 0.2, "momentum": 0.5},
        {"levels": 2, "keep": 0.3, "directions": 2, "one_sided": True, "betas": (0.9, 0.99)},
    ],
    ids=str,
)
def test_it_keeps_its_contract(options):
    def make(model, generator):
        return PerturbativeGradient(model.parameters(), 0.01, **options, generator=generator, model=model)

    claims = dict(check_optimizer(make, samples=300).claims)
    order = 1 if options.get("one_sided") else 2
    assert float(claims["bias order"]) == pytest.approx(order, rel=0.1)
    assert claims["variance over directions, slope"].endswith("(law -1.000)")
    assert {"relative variance, keep 0.1", "relative variance, levels 4", "heeds devices' limits"} <= claims.keys()


class _Unnormalised(PerturbativeGradient):
    def _second_moment(self, group):
        return 1.0


class _Noise(PerturbativeGradient):
    def _gradients(self, slopes):
        return super()._gradients([(key + 1, slope) for key, slope in slopes])


class _Boastful(PerturbativeGradient):
    def relative_variance(self, size):
        return super().relative_variance(size) / 2


class _Forgetful(PerturbativeGradient):
    def state_dict(self):
        state = super().state_dict()
        return {**state, "perturbations": {**state["perturbations"], "generator": seeded().get_state()}}


class _Drifting(PerturbativeGradient):
    """θ + δ − δ, as is often seen."""

    def _measure(self, closure, tick):
        found = super()._measure(closure, tick)
        for group, p in self._parameters():
            p.add_(group["delta"]).sub_(group["delta"])
        return found


class _Careless(PerturbativeGradient):
    def _measure(self, closure, tick):
        generator = self.generator.get_state()
        try:
            return super()._measure(closure, tick)
        except BlackpropError:
            self.generator.set_state(generator).manual_seed(0)
            raise


@pytest.mark.parametrize(
    ("liar", "claim"),
    [
        (_Unnormalised, "mean"),
        (_Noise, "mean"),
        (_Boastful, "variance"),
        (_Forgetful, "state_dict"),
        (_Drifting, "moves no parameter"),
        (_Careless, "all or nothing"),
    ],
)
def test_liars_are_caught(liar, claim):
    with pytest.raises(ContractError, match=claim):
        check_optimizer(lambda m, g: liar(m.parameters(), 0.01, generator=g, model=m), samples=300)


def test_one_that_does_not_know_the_limits_is_caught():
    with pytest.raises(ContractError, match="limits"):
        check_optimizer(lambda m, g: PerturbativeGradient(m.parameters(), 0.01, generator=g), samples=100)


@pytest.mark.parametrize(("levels", "keep"), [(1, 1.0), (1, 0.2), (3, 1.0), (3, 0.4)])
def test_the_entries_are_as_declared_and_the_law_follows_from_them(levels, keep):
    """`E|ĝ − g|²` over every pair of entries there is, weighted by how likely the entries are."""
    p = nn.Parameter(torch.zeros(200_000))
    optimizer = PerturbativeGradient([p], 0.1, levels=levels, keep=keep)
    u = optimizer._direction(p, optimizer.param_groups[0], Place(7, 0, {}))
    entries = torch.arange(-levels, levels + 1, dtype=torch.float64)
    likely = torch.full_like(entries, keep / len(entries)) + (1 - keep) * (entries == 0)
    share = torch.stack([(u == entry).double().mean() for entry in entries])
    assert bool(((share - likely).abs() < 5 * (likely * (1 - likely) / len(u)).sqrt()).all())
    assert float(share.sum()) == pytest.approx(1)
    g = draw(2, dtype=torch.float64)
    pairs, weights = torch.cartesian_prod(entries, entries), torch.cartesian_prod(likely, likely).prod(1)
    estimates = (pairs @ g)[:, None] * pairs / optimizer._second_moment(optimizer.param_groups[0])
    torch.testing.assert_close(weights @ estimates, g)
    variance = float(weights @ (estimates - g).square().sum(1) / g.square().sum())
    assert optimizer.relative_variance(2) == pytest.approx(variance)


@pytest.mark.parametrize("keep", [1.0, 0.3])
def test_on_a_bowl_of_100_parameters_it_converges_at_the_rate_of_theory(keep):
    """`E|θ'|² = ((1 − lr)² + lr² V) |θ|²`, V the relative variance, whatever δ is."""
    directions, steps, factors = 10, 12, []
    for seed in range(8):
        theta = nn.Parameter(draw(100, seed=seed, dtype=torch.float64))
        optimizer = PerturbativeGradient(
            [theta], 1.0, 0.3, levels=2, keep=keep, directions=directions, generator=seeded(seed)
        )
        V = optimizer.relative_variance(100)
        optimizer.param_groups[0]["lr"] = lr = 1 / (1 + V)
        for _ in range(steps):
            before = float(theta.detach().square().sum())
            optimizer.step(lambda theta=theta: theta.square().sum() / 2)
            factors.append(float(theta.detach().square().sum()) / before)
    found = torch.tensor(factors)
    law, error = (1 - lr) ** 2 + lr**2 * V, float(found.std()) / math.sqrt(len(found))
    assert pytest.approx((98 + 1.7 / keep) / directions) == V
    assert law == pytest.approx(1 - directions / (directions + 98 + 1.7 / keep))
    assert float(found.mean()) == pytest.approx(law, abs=4 * error)
    assert 4 * error < (1 - law) / 3


def test_a_model_that_autograd_cannot_see_into_is_trained():
    """Numbers of another library, thresholds, and a loss that is a plain float."""
    x = np.random.default_rng(0).normal(size=(64, 3))
    weights = torch.zeros(4)  # no nn.Parameter either

    def loss() -> float:
        w = weights.numpy()
        drive = np.round(100 * (x @ w[:3] + w[3])) / 100
        return float(np.mean((np.tanh(drive) - np.tanh(x @ [1.0, -1.0, 0.5] + 0.2)) ** 2))

    optimizer = PerturbativeGradient([weights], 0.3, 0.05, directions=4, generator=seeded())
    start = loss()
    for _ in range(150):
        optimizer.step(loss)
    assert loss() < 0.02 * start
    assert weights.grad is None


def black_box(device: bp.Device | None = None) -> nn.Sequential:
    torch.manual_seed(0)
    opaque = device if device is not None else Opaque(bp.devices.LightModulator(6, 5))
    layer = bp.PhysicalLayer(opaque, *bp.presets.paper(rank=2, samples=3), generator=seeded(1))
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), layer, nn.Tanh(), nn.Linear(5, 2))


@pytest.mark.parametrize("one_sided", [False, True])
def test_a_black_box_is_trained_by_forward_passes_and_nothing_else(one_sided):
    model, x, steps = black_box(), draw(16, 4), 5
    before = values(model.parameters())
    optimizer = PerturbativeGradient(
        model.parameters(), 1e-2, directions=3, one_sided=one_sided, generator=seeded(), model=model
    )
    for _ in range(steps):
        optimizer.step(lambda: (model(x) - x[:, :2]).square().mean())
    passes = optimizer.passes * steps
    assert optimizer.passes == (4 if one_sided else 6)
    book = bp.ledger(model)
    assert dict(book.rows) == {Purpose.FORWARD: 16 * passes}
    assert dict(book.programmings) == {Purpose.FORWARD: passes}
    assert len(model[2].device.rows) == passes
    assert not bool(model[2].started)
    assert all(not torch.equal(p, old) for p, old in zip(model.parameters(), before, strict=True))


def test_before_and_in_the_box_by_perturbation_and_after_it_by_backpropagation():
    """It learns what the layer after the box alone cannot, and the box is asked for no gradient."""
    losses, steps = {}, 80
    for trained in (False, True):
        model, x = black_box(), draw(32, 4)
        target = (x[:, :2] - x[:, 2:]).sin()
        front = PerturbativeGradient(model[:3].parameters(), 0.1, 0.05, directions=4, generator=seeded(), model=model)
        after = torch.optim.Adam(model[4].parameters(), 3e-2)

        def loss(model=model, x=x, target=target) -> torch.Tensor:
            return (model(x) - target).square().mean()

        for _ in range(steps):
            if trained:
                front.step(loss)
            with front.hidden():
                after.zero_grad()
                losses[trained] = loss()
                losses[trained].backward()
            after.step()
        assert all(p.requires_grad and p.grad is None for p in model[:3].parameters())
        book = bp.ledger(model)
        assert dict(book.rows) == {Purpose.FORWARD: 32 * steps * (9 if trained else 1)}
        assert dict(book.programmings) == {Purpose.FORWARD: 9 * steps if trained else 1}
    assert losses[True] < 0.5 * losses[False]


def test_a_device_keeps_to_its_limits_and_is_refused_a_step_that_does_not_fit():
    device = bp.devices.Diffraction(9, 4)
    model = nn.Sequential(bp.PhysicalLayer(device, generator=seeded(1)))
    assert device.theta.limited
    x, wanted = draw(4, 9), draw(4, 4)

    def loss() -> torch.Tensor:
        return (model(x) * wanted).mean()

    optimizer = PerturbativeGradient(model.parameters(), 1e3, 0.05, generator=seeded(), model=model)
    for _ in range(3):
        optimizer.step(loss)
        device.theta.check(model[0].theta.detach())
    assert bool(((model[0].theta == 0) | (model[0].theta == 1)).any())
    with pytest.raises(IncompatibleError, match="does not fit"):
        PerturbativeGradient(model.parameters(), 0.1, 0.3, levels=2, model=model)


def test_groups_have_their_own_options_and_the_mean_is_theirs():
    """Of a linear loss each group's mean is its gradient, though they are displaced by other amounts."""
    a, b = (nn.Parameter(torch.zeros(3, dtype=torch.float64)) for _ in range(2))
    slope = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    groups = [{"params": [a]}, {"params": [b], "delta": 0.02, "levels": 3, "keep": 0.6, "lr": 0.0001}]
    optimizer = PerturbativeGradient(groups, 0.1, 0.01, directions=16, generator=seeded())
    found = [optimizer.estimate(lambda: a @ slope + 2 * (b @ slope)) for _ in range(60)]
    for index, truth in enumerate((slope, 2 * slope)):
        drawn = torch.stack([each[index] for each in found])
        error = drawn.std(0) / math.sqrt(len(drawn))
        assert bool(((drawn.mean(0) - truth).abs() < 4 * error).all())
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)
    optimizer.step(lambda: a @ slope + b @ slope)
    scheduler.step()
    assert [group["lr"] for group in optimizer.param_groups] == [0.05, 0.00005]
    assert float(b.detach().abs().max()) < 0.1 * float(a.detach().abs().max())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"lr": 0.0}, "lr"),
        ({"delta": math.nan}, "delta"),
        ({"levels": 0}, "levels"),
        ({"levels": 1.5}, "levels"),
        ({"keep": 0.0}, "keep"),
        ({"keep": 1.5}, "keep"),
        ({"directions": 0}, "directions"),
        ({"momentum": 1.0}, "momentum"),
        ({"betas": (0.9, 1.0)}, "betas"),
        ({"momentum": 0.9, "betas": (0.9, 0.99)}, "not both"),
    ],
    ids=str,
)
def test_options_that_cannot_be_used_are_refused_at_construction(options, words):
    with pytest.raises(ArgumentError, match=words):
        PerturbativeGradient([nn.Parameter(torch.ones(2))], **{"lr": 0.1, **options})
    with pytest.raises(ArgumentError, match="weight decay"):
        PerturbativeGradient([{"params": [nn.Parameter(torch.ones(2))], "weight_decay": 0.1}], 0.1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("fault", [torch.ones(3), math.nan, torch.tensor(math.inf), "a word", KeyboardInterrupt()])
def test_whatever_a_closure_does_the_weights_are_restored(fault, dtype):
    parameters = [nn.Parameter(1e3 * draw(50).to(dtype)), nn.Parameter(draw(3, 4).to(dtype))]
    before, calls = values(parameters), iter(range(9))
    optimizer = PerturbativeGradient(parameters, 0.1, 0.7, directions=2, generator=seeded())

    def loss():
        assert not unchanged(parameters, before)
        if next(calls) < 2:
            return sum(p.float().sum() for p in parameters)
        if isinstance(fault, BaseException):
            raise fault
        return fault

    kind = type(fault) if isinstance(fault, BaseException) else (ReadingError, ShapeError)
    with pytest.raises(kind):
        optimizer.step(loss)
    assert unchanged(parameters, before)
    assert torch.equal(optimizer.generator.get_state(), seeded().get_state())


class _Allocated(TorchDispatchMode):
    """How many numbers are held in tensors that were made within, but for those of `apart`."""

    def __init__(self, apart: list[nn.Parameter]) -> None:
        super().__init__()
        self.made: list[weakref.ref[torch.Tensor]] = []
        self.apart = {p.data_ptr() for p in apart}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor):
            self.made.append(weakref.ref(out))
        return out

    def held(self) -> int:
        alive = {t.data_ptr(): t.numel() for t in (ref() for ref in self.made) if t is not None}
        return sum(count for place, count in alive.items() if place not in self.apart)


@pytest.mark.parametrize("in_place", [False, True])
def test_in_place_needs_no_memory_and_differs_by_rounding(in_place):
    """While the loss is asked for: a copy of the parameters, or nothing."""
    parameters = [nn.Parameter(draw(50, 20)), nn.Parameter(draw(1000, seed=1))]
    before, held = values(parameters), []
    optimizer = PerturbativeGradient(parameters, 1e-4, 0.1, in_place=in_place, generator=seeded())
    with _Allocated(parameters) as watch:

        def loss():
            held.append(watch.held())
            return sum(p.square().sum() for p in parameters)

        optimizer.step(loss)
    assert len(held) == 2
    assert all(count < 10 if in_place else 2000 <= count < 2010 for count in held)
    after = values(parameters)
    with pytest.raises(ZeroDivisionError):
        optimizer.step(lambda: 1 / 0)
    copied = [nn.Parameter(old) for old in before]
    PerturbativeGradient(copied, 1e-4, 0.1, generator=seeded()).step(lambda: sum(p.square().sum() for p in copied))
    for p, then, other in zip(parameters, after, copied, strict=True):
        torch.testing.assert_close(p.detach(), then, rtol=1e-6, atol=1e-7)
        torch.testing.assert_close(then, other.detach(), rtol=1e-4, atol=1e-5)


def test_a_loss_that_depends_on_nothing_is_told_and_a_flat_place_is_not_mistaken_for_one():
    p, other = nn.Parameter(torch.zeros(3)), nn.Parameter(torch.ones(3))
    with pytest.raises(ArgumentError, match="does not depend on the parameters"):
        PerturbativeGradient([p], 0.1).step(lambda: other.square().sum())
    assert torch.equal(p, torch.zeros(3))
    for one_sided in (False, True):
        optimizer = PerturbativeGradient([p], 0.1, keep=1.0, one_sided=one_sided, generator=seeded())
        optimizer.step(lambda: p.square().sum())  # alike at both ends, for it stands at the minimum
    optimizer.step(lambda: torch.zeros(()))  # it has been seen to depend: this is a plateau
    with pytest.raises(ArgumentError, match="closure"):
        optimizer.step()


def test_a_state_that_is_anothers_is_refused():
    p = nn.Parameter(torch.ones(3))
    optimizer = PerturbativeGradient([p], 0.1)
    with pytest.raises(CheckpointError, match="PerturbativeGradient"):
        optimizer.load_state_dict(torch.optim.SGD([p], 0.1).state_dict())


def test_without_a_generator_the_global_seed_decides_and_is_not_drawn_from_again():
    ends = []
    for _ in range(2):
        torch.manual_seed(3)
        p = nn.Parameter(torch.ones(5))
        optimizer = PerturbativeGradient([p], 0.1)
        state = torch.get_rng_state()
        optimizer.step(lambda p=p: p.square().sum())
        assert torch.equal(torch.get_rng_state(), state)
        ends.append(p.detach().clone())
    assert torch.equal(*ends)
