"""The contract of estimators holds for all of ours, and every liar is caught."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import pytest
import torch

import blackprop as bp
from blackprop.devices import Diffraction
from blackprop.directions import Gaussian, Orthogonal, Rademacher, Sphere
from blackprop.errors import ArgumentError, ContractError, IncompatibleError
from blackprop.estimators import BatchContraction, Central, Coordinate, Forward, Oracle, RandomDirections
from blackprop.query import Purpose, Query
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


@dataclass(frozen=True)
class _Changed(RandomDirections):
    """Random directions, changed on their way out."""

    def change(self, grad, generator):
        raise NotImplementedError

    def vjp(self, x, theta, y, grad_y, spec, generator):
        grad = yield from super().vjp(x, theta, y, grad_y, spec, generator)
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
    def vjp(self, x, theta, y, grad_y, spec, generator):
        grad_y.mul_(1.01)
        return (yield from super().vjp(x, theta, y, grad_y, spec, generator))

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

    def vjp(self, x, theta, y, grad_y, spec, generator):
        coarse = RandomDirections(self.count, 1.0, self.directions)
        return coarse.vjp(x, theta, y, grad_y, spec, generator)


@dataclass(frozen=True)
class _Peeks(RandomDirections):
    """Differentiates the simulator where it can."""

    def vjp(self, x, theta, y, grad_y, spec, generator):
        (base,) = yield [Query(x, theta, Purpose.PARAMETER)]
        if spec.oracle is None:
            return torch.zeros_like(theta) + base.sum()
        return (yield from Oracle().vjp(x, theta, y, grad_y, spec, generator))


@dataclass(frozen=True)
class _Trespasses(RandomDirections):
    """Knows no limits."""

    def vjp(self, x, theta, y, grad_y, spec, generator):
        free = replace(spec, theta=bp.ThetaSpec(spec.theta.size))
        return super().vjp(x, theta, y, grad_y, free, generator)


@dataclass(frozen=True)
class _Mislabels(RandomDirections):
    def vjp(self, x, theta, y, grad_y, spec, generator):
        yield [Query(x, theta, Purpose.EVALUATE)]
        return (yield from super().vjp(x, theta, y, grad_y, spec, generator))


@dataclass(frozen=True)
class _HidesItsPrice(RandomDirections):
    """Asks twice as much when the answers are not random."""

    def vjp(self, x, theta, y, grad_y, spec, generator):
        (base,) = yield [Query(x, theta, Purpose.PARAMETER)]
        if torch.allclose(base, y):
            yield [Query(x, theta, Purpose.PARAMETER)]
        return (yield from super().vjp(x, theta, y, grad_y, spec, generator))


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


def test_estimators_are_compared_on_simulators_they_take():
    with pytest.raises(ArgumentError, match="needs a simulator"):
        check_estimator(Coordinate(), device=Opaque(bp.devices.Matrix(3, 2)))
    with pytest.raises(IncompatibleError, match="linear"):
        check_estimator(Coordinate(contraction=BatchContraction()), device=Diffraction(4, 4))
