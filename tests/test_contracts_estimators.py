"""The contract of estimators holds for all of ours, and every liar is caught."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import pytest
import torch

import blackprop as bp
from blackprop.core import Purpose, Query
from blackprop.devices import Diffraction
from blackprop.directions import Gaussian, LowRankFactored, Orthogonal, Rademacher, Sphere
from blackprop.errors import ArgumentError, ContractError, IncompatibleError
from blackprop.estimators import (
    Averaged,
    BatchContraction,
    ByOutput,
    Central,
    Coordinate,
    DirectionalMemory,
    Forward,
    GuidedDirections,
    Oracle,
    RandomDirections,
)
from blackprop.testing import check_estimator
from simulators import SIMULATORS, tag
from support import Opaque

FAMILIES = [Gaussian(), Rademacher(), Sphere(), Orthogonal()]
RANDOM = [
    RandomDirections(directions=family, difference=difference, **more)
    for family in FAMILIES
    for difference in (Forward(), Central())
    for more in ({}, {"contraction": BatchContraction()}, {"fraction": 0.5})
]
EXACT = [
    Coordinate(),
    Coordinate(difference=Forward()),
    Coordinate(contraction=BatchContraction()),
    Oracle(),
]


@pytest.mark.parametrize("estimator", [*RANDOM, *EXACT], ids=tag)
def test_estimators_keep_their_contract(estimator):
    report = check_estimator(estimator)
    claims = dict(report.claims)
    orders = [text for claim, text in report.claims if claim.startswith("bias order") and "no bias" not in text]
    if estimator.bias_order is not None:
        assert orders
        assert all(float(text) == pytest.approx(estimator.bias_order, rel=0.1) for text in orders)
    if isinstance(estimator, RandomDirections):
        slope, _, law = claims["variance over count, slope"].strip(")").split()
        assert float(slope) == pytest.approx(float(law), rel=0.1)
        if not isinstance(estimator.directions, Orthogonal):
            assert float(law) == -1


@pytest.mark.parametrize("device", SIMULATORS, ids=str)
@pytest.mark.parametrize(
    "estimator",
    [
        RandomDirections(),
        RandomDirections(directions=Rademacher(), difference=Central()),
        Coordinate(),
        Coordinate(difference=Forward()),
        Oracle(),
    ],
    ids=tag,
)
def test_the_mean_is_the_gradient_on_every_simulator(estimator, device):
    check_estimator(estimator, device=device, samples=800)


@pytest.mark.parametrize("device", SIMULATORS, ids=str)
def test_a_spanning_set_is_the_gradient_on_every_simulator(device):
    estimator = RandomDirections(device.theta.size, directions=Orthogonal(), difference=Central())
    claims = dict(check_estimator(estimator, device=device, samples=20).claims)
    assert float(claims[f"mean, {device}"].split()[-1]) < 1e-6


def test_low_rank_directions_keep_their_contract():
    estimator = RandomDirections(directions=LowRankFactored((2, 3)))
    for each in (estimator, replace(estimator, credit=ByOutput(2))):
        check_estimator(each, device=bp.devices.LightModulator(3, 2))


def _memory(**settings):
    return DirectionalMemory(count=4, size=256, rank=8, step=1e-3, **settings)


@pytest.mark.parametrize(
    ("estimator", "device"),
    [
        (_memory(), None),
        (_memory(credit=ByOutput(2)), bp.devices.LightModulator(3, 2)),
        (_memory(credit=ByOutput(4)), bp.devices.Microring(5, 4)),
        (Averaged(RandomDirections(4)), None),
        (Averaged(RandomDirections(4, difference=Central(), contraction=BatchContraction()), 0.5), None),
        (Averaged(GuidedDirections(4, memory=2)), bp.devices.Matrix(5, 4)),
        (GuidedDirections(4, memory=2), None),
        (GuidedDirections(4, memory=1, decay=0.9, difference=Central()), None),
        (GuidedDirections(2, memory=3, contraction=BatchContraction()), bp.devices.Microring(5, 4)),
    ],
    ids=tag,
)
def test_estimators_with_state_keep_their_contract(estimator, device):
    before = {name: value.clone() for name, value in estimator.state_dict().items()}
    claims = dict(check_estimator(estimator, device=device).claims)
    assert estimator.state_dict().keys() == before.keys()  # it is bound to nothing, and copies were checked
    for claim in (
        "price",
        "bias order",
        "cosine after (1, 4, 16) calls",
        "eval leaves the state unchanged",
        "all or nothing later",
    ):
        assert any(each.startswith(claim) for each in claims)
    exact = [text for claim, text in claims.items() if claim.startswith("exact once learnt")]
    assert bool(exact) == isinstance(estimator, DirectionalMemory)


@dataclass(frozen=True)
class _Changed(RandomDirections):
    """Random directions, changed on their way out."""

    def change(self, grad, generator):
        raise NotImplementedError

    def grad_theta(self, x, theta, y, grad_y, spec, generator):
        grad = yield from super().grad_theta(x, theta, y, grad_y, spec, generator)
        return self.change(grad, generator)


@dataclass(frozen=True)
class _Noise(_Changed):
    def change(self, grad, generator):
        return torch.randn(grad.shape, generator=generator, dtype=grad.dtype) * grad.norm()


@dataclass(frozen=True)
class _Scaled(_Changed):
    def change(self, grad, generator):
        return 1.2 * grad


@dataclass(frozen=True)
class _Biased(_Changed):
    def change(self, grad, generator):
        return grad + 0.3 * grad.norm() * torch.ones_like(grad) / math.sqrt(len(grad))


@dataclass(frozen=True)
class _Noisier(_Changed):
    def change(self, grad, generator):
        return grad * (1 + 0.7 * torch.randn((), generator=generator, dtype=grad.dtype))


@dataclass(frozen=True)
class _GlobalStream(_Changed):
    def change(self, grad, generator):
        return grad * (1 + 1e-9 * torch.rand((), dtype=grad.dtype))


@dataclass(frozen=True)
class _OwnStream(_Changed):
    def change(self, grad, generator):
        stream = torch.Generator()
        stream.seed()
        return grad * (1 + 1e-6 * torch.rand((), dtype=grad.dtype, generator=stream))


@dataclass(frozen=True)
class _Overwriting(_Changed):
    def grad_theta(self, x, theta, y, grad_y, spec, generator):
        grad_y.mul_(1.01)
        return (yield from super().grad_theta(x, theta, y, grad_y, spec, generator))

    def change(self, grad, generator):
        return grad


@dataclass(frozen=True)
class _WrongLaw(RandomDirections):
    """Claims the law of another family."""

    def relative_variance(self, size):
        return Rademacher().relative_variance(self.count, size)


@dataclass(frozen=True)
class _WrongRate(RandomDirections):
    """Claims that more directions help more than they do; true at 1."""

    def relative_variance(self, size):
        return super().relative_variance(size) / self.count**0.2


@dataclass(frozen=True)
class _WrongOrder(RandomDirections):
    @property
    def bias_order(self):
        return 2


@dataclass(frozen=True)
class _ClaimsNoBias(RandomDirections):
    """Differences with a coarse step of their own, and no bias declared."""

    @property
    def bias_order(self):
        return None

    def grad_theta(self, x, theta, y, grad_y, spec, generator):
        coarse = RandomDirections(self.count, 1.0, self.directions)
        return coarse.grad_theta(x, theta, y, grad_y, spec, generator)


@dataclass(frozen=True)
class _Peeks(RandomDirections):
    """Differentiates the simulator where it can."""

    def grad_theta(self, x, theta, y, grad_y, spec, generator):
        (base,) = yield [Query(x, theta, Purpose.PARAMETER)]
        if spec.oracle is None:
            return torch.zeros_like(theta) + base.sum()
        return (yield from Oracle().grad_theta(x, theta, y, grad_y, spec, generator))


@dataclass(frozen=True)
class _Trespasses(RandomDirections):
    """Knows no limits."""

    def grad_theta(self, x, theta, y, grad_y, spec, generator):
        free = replace(spec, theta=bp.ThetaSpec(spec.theta.size))
        return super().grad_theta(x, theta, y, grad_y, free, generator)


@dataclass(frozen=True)
class _Mislabels(RandomDirections):
    def grad_theta(self, x, theta, y, grad_y, spec, generator):
        yield [Query(x, theta, Purpose.EVALUATE)]
        return (yield from super().grad_theta(x, theta, y, grad_y, spec, generator))


@dataclass(frozen=True)
class _HidesItsPrice(RandomDirections):
    """Asks twice as much when the answers are not random."""

    def grad_theta(self, x, theta, y, grad_y, spec, generator):
        (base,) = yield [Query(x, theta, Purpose.PARAMETER)]
        if torch.allclose(base, y):
            yield [Query(x, theta, Purpose.PARAMETER)]
        return (yield from super().grad_theta(x, theta, y, grad_y, spec, generator))


@pytest.mark.parametrize(
    ("estimator", "message"),
    [
        (_Noise(), "mean, .* measured"),
        (_Scaled(), r"mean, .* measured 1\.\d+ of the true gradient"),
        (_Biased(), "mean, .* measured"),
        (_Noisier(), r"relative variance, count \d+: measured"),
        (_WrongLaw(), "relative variance, count 1: measured"),
        (_WrongRate(), "relative variance, count 1?[46]: measured"),
        (_WrongOrder(), r"bias order, .* measured (0\.9|1\.0)\d+, declared 2"),
        (_ClaimsNoBias(), "mean, .* measured|stays within limits"),
        (_GlobalStream(), "draws from the generator alone, .* it moved the global stream of torch"),
        (_OwnStream(), "repeats at the same seed"),
        (_Overwriting(), "leaves its arguments as given"),
        (_Peeks(), "needs queries alone"),
        (_Trespasses(), "within limits, .* outside the device's limits"),
        (_Mislabels(), "purpose of its queries: measured {'evaluate'}"),
        (_HidesItsPrice(), "price, .* measured 60 rows, .* declared 55 rows"),
    ],
    ids=lambda value: type(value).__name__.strip("_") if isinstance(value, RandomDirections) else "",
)
def test_lying_estimators_are_caught(estimator, message):
    with pytest.raises(ContractError, match=message):
        check_estimator(estimator)


class _Late(Averaged):
    """Averages, and lets `late` change its state or its estimate besides."""

    def __init__(self):
        super().__init__(RandomDirections(4), 0.8)
        self.calls = 0

    def late(self, grad, generator):
        raise NotImplementedError

    def grad_theta(self, x, theta, y, grad_y, spec, generator):
        grad = yield from super().grad_theta(x, theta, y, grad_y, spec, generator)
        return self.late(grad, generator)


class _LearnsInEval(_Late):
    def late(self, grad, generator):
        self.average += 1e-6 * grad
        return grad


class _HidesState(_Late):
    def late(self, grad, generator):
        self.calls += 1
        return grad * (1 + 1e-3 * self.calls)


class _GetsWorse(_Late):
    def late(self, grad, generator):
        return grad + 10 * float(self.weight > 0.9) * grad.norm() * torch.randn(grad.shape, generator=generator).to(
            grad
        )


class _IsNoise(_Late):
    def late(self, grad, generator):
        return torch.randn(grad.shape, generator=generator, dtype=grad.dtype)


class _ClaimsToBeExact(_Late):
    def relative_variance(self, size):
        return 0.0

    def late(self, grad, generator):
        return grad


class _WritesFirst(_Late):
    def grad_theta(self, x, theta, y, grad_y, spec, generator):
        self.average += 1.0
        grad = yield from super().grad_theta(x, theta, y, grad_y, spec, generator)
        self.average -= 1.0
        return grad

    def late(self, grad, generator):
        return grad


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (_LearnsInEval, "eval leaves the state unchanged, .* measured its state"),
        (_HidesState, "eval leaves the state unchanged|state_dict is its whole state"),
        (_GetsWorse, "cosine after .* measured 0.*, declared not falling"),
        (_IsNoise, "no worse than random directions"),
        (_ClaimsToBeExact, "exact once learnt, .* measured within 0"),
        (_WritesFirst, "all or nothing at first, .* measured other estimates once round 1 fails"),
    ],
    ids=lambda value: value.__name__.strip("_") if isinstance(value, type) else "",
)
def test_learners_that_lie_are_caught(kind, message):
    with pytest.raises(ContractError, match=message):
        check_estimator(kind(), device=bp.devices.LightModulator(3, 2))


def test_estimators_are_compared_on_simulators_they_take():
    with pytest.raises(ArgumentError, match="needs a simulator"):
        check_estimator(Coordinate(), device=Opaque(bp.devices.Matrix(3, 2)))
    with pytest.raises(IncompatibleError, match="linear"):
        check_estimator(Coordinate(contraction=BatchContraction()), device=Diffraction(4, 4))
