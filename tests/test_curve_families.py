"""Curves of one family: phases, shape and modes that are found, what is told of them, and elements that stray."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from blackprop.surrogates.calibration._curve_family import CurveFamily, learn
from blackprop.surrogates.calibration._curve_fit import CurveFit, preferred
from blackprop.surrogates.calibration._posterior import better_of
from blackprop.surrogates.calibration._registration import PHASES, align, scan
from blackprop.surrogates.calibration._spectra import Samples, estimate
from blackprop.surrogates.calibration._sweep import Sweep
from blackprop.surrogates.calibration._waves import advanced, derivative, slopes, tabulated, waves
from elements import Elements
from support import draw

H = 32
EVEN = pytest.mark.parametrize("even", [False, True])


def uniform(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def resonance(turns: Tensor) -> Tensor:
    return 1 / (1.15 - (2 * math.pi * turns).cos())


class Resonances:
    """Resonances of any phase, with 20 % spread of gain; without a period cosines of `k V²`, with 10 % spread of k."""

    def __init__(self, even: bool, noise: float = 0.15, P: int = 128, settings: int = 16, seed: int = 0):
        self.even, self.noise = even, noise
        self.sweep = Sweep.draw(
            P, settings, even, torch.zeros((), dtype=torch.float64), torch.Generator().manual_seed(seed)
        )
        self.phase, self.gain = uniform(P, seed=1), 1 + 0.2 * draw(P, seed=2, dtype=torch.float64)
        self.speed = 1 + 0.1 * draw(P, seed=4, dtype=torch.float64)
        self.turns = torch.cat(self.sweep.call(0))
        clean = self.curve(self.turns[:, self.sweep.group])
        self.values = clean + noise * draw(*clean.shape, seed=3, dtype=torch.float64)

    def curve(self, turns: Tensor) -> Tensor:
        """At `turns` (*, P)."""
        if self.even:
            volts = 1 + (2 * math.pi * turns).cos()
            return 5 * self.gain * (1.6 * self.speed * volts.square() + 2 * math.pi * self.phase).cos()
        return self.gain * resonance(turns + self.phase)

    def stationary(self) -> CurveFit:
        found = estimate(Samples.of(self.turns, self.sweep.groups, self.values, self.even), H)
        return CurveFit(found, None, self.turns)

    def family(self) -> CurveFamily:
        guess = self.stationary().posterior(self.sweep.group, self.values)
        return learn(self.turns, self.values, self.sweep.group, guess.curves, self.even, guess.noise, 1e-8)

    def cosine(self, curves) -> float:
        """Of the slopes per turn to the true ones."""
        turns = uniform(20, len(self.gain), seed=5)
        mean = curves.curves if self.even else advanced(curves.curves, curves.phase[curves.row])
        true = (self.curve(turns + 1e-5) - self.curve(turns - 1e-5)) / 2e-5
        return float(torch.cosine_similarity((slopes(turns, H, self.even) * mean).sum(2).flatten(), true.flatten(), 0))


@EVEN
def test_slopes_of_a_family_are_known_better_than_under_a_stationary_prior(even):
    given = Resonances(even)
    stationary = given.stationary().posterior(given.sweep.group, given.values)
    curves = given.family().posterior(given.turns, given.sweep.group, given.values)
    assert given.cosine(curves) > 0.985
    assert 1 - given.cosine(curves) < 0.8 * (1 - given.cosine(stationary))


@EVEN
def test_noise_and_errors_of_a_family_are_as_told(even):
    given = Resonances(even, settings=24, P=192)
    family = given.family()
    curves = family.posterior(given.turns, given.sweep.group, given.values)
    assert family.noise == pytest.approx(given.noise**2, rel=0.15)
    assert float(curves.off.mean()) == pytest.approx(1, abs=0.15)
    turns = uniform(192, 30, seed=7)
    columns = curves.waves(turns)
    wrong = curves.mean(columns) - given.curve(turns.mT).mT
    told = curves.variance(columns)
    assert 0.6 < float(wrong.square().mean() / told.mean()) < 1.6


def test_a_sample_that_is_left_out_is_off_by_as_much_as_without_it():
    """Under a stationary prior: the fit to the other samples, evaluated there."""
    given = Resonances(False, P=40)
    found = given.stationary().found
    curves = found.posterior(given.sweep.group, given.values)
    k, F, group = 5, found.waves, given.sweep.group
    others = [j for j in range(len(given.values)) if j != k]
    C = (F * found.own) @ F.mT + found.noise * torch.eye(F.shape[1], dtype=torch.float64)
    rest = given.values.mT - (F @ found.common)[group]
    gain = torch.linalg.solve(C[:, others][:, :, others], C[:, others, k][..., None])[..., 0]  # (G, K - 1)
    error = rest[:, k] - (gain[group] * rest[:, others]).sum(1)
    variance = (C[:, k, k] - (gain * C[:, others, k]).sum(1))[group]
    torch.testing.assert_close(curves.off[:, k], error.square() / variance)


def test_the_likeliest_phase_is_that_of_the_normal_distribution():
    functions = 0.5 * draw(11, 3, dtype=torch.float64)
    turns, values, noise = uniform(2, 9), draw(9, 6, seed=1, dtype=torch.float64), 0.3
    group = torch.tensor([0, 1, 0, 0, 1, 1])
    found = scan(functions, noise, turns, group, values)
    for e in range(6):
        likelihoods = []
        for p in range(PHASES):
            at = waves(turns[group[e]] + p / PHASES, 5, False) @ functions
            covariance = at[:, 1:] @ at[:, 1:].mT + noise * torch.eye(9, dtype=torch.float64)
            normal = torch.distributions.MultivariateNormal(at[:, 0], covariance)
            likelihoods.append(float(normal.log_prob(values[:, e])))
        assert likelihoods[round(float(found[e]) * PHASES)] == pytest.approx(max(likelihoods), abs=0.02)
    near = (found + 0.4 / PHASES) % 1
    assert torch.equal(scan(functions, noise, turns, group, values, near=near), near)
    assert torch.equal(scan(functions, noise, turns, group, values, near=(found + 0.3) % 1), found)


def test_curves_of_one_shape_are_aligned_up_to_a_phase_that_all_share():
    phase = uniform(50)
    shape = 0.7 ** torch.arange(33, dtype=torch.float64) * draw(33, dtype=torch.float64)
    found = align(advanced(shape.expand(50, -1), phase) * (1 + uniform(50, seed=1))[:, None])
    apart = torch.polar(torch.ones(50, dtype=torch.float64), 2 * math.pi * (found - phase))
    assert float(apart.mean().abs()) > 0.999


@EVEN
def test_series_are_tabulated_advanced_and_differentiated(even):
    coefficients = draw(3, 6 if even else 11, dtype=torch.float64)
    values, rates = tabulated(coefficients, even, 64)
    places = torch.arange(64, dtype=torch.float64) / 64
    torch.testing.assert_close(values, waves(places, 5, even) @ coefficients.mT)
    torch.testing.assert_close(rates, slopes(places, 5, even) @ coefficients.mT)
    if even:
        return
    torch.testing.assert_close(derivative(coefficients) @ waves(places, 5, even).mT, rates.mT)
    by = uniform(3)
    moved = torch.stack([waves(places + b, 5, even) @ c for b, c in zip(by, coefficients, strict=True)])
    torch.testing.assert_close(advanced(coefficients, by) @ waves(places, 5, even).mT, moved)


def test_an_element_that_strays_from_the_family_keeps_a_curve_of_its_own():
    """Four of 128 resonances are replaced by a cosine of three periods, which the stationary prior explains."""
    given = Resonances(False, noise=0.02, settings=32)
    cosine = 3 * (6 * math.pi * given.turns[:, given.sweep.group[:4]]).cos()
    family = given.family()
    given.values[:, :4] = cosine
    found = given.stationary().found
    curves = CurveFit(found, family, given.turns).posterior(given.sweep.group, given.values)
    turns = uniform(128, 50, seed=8)
    strays = curves.mean(curves.waves(turns))[:4] - 3 * (6 * math.pi * turns[:4]).cos()
    alone = family.posterior(given.turns, given.sweep.group, given.values)
    assert float(strays.square().mean()) < 0.2
    assert float((alone.mean(alone.waves(turns))[:4] - 3 * (6 * math.pi * turns[:4]).cos()).square().mean()) > 1
    torch.testing.assert_close(curves.curves[4:], alone.curves[4:])


def test_a_family_is_taken_for_resonances_and_not_for_curves_of_a_stationary_prior():
    given = Resonances(False)
    curves = [given.stationary().posterior(given.sweep.group, given.values)]
    family = given.family()
    assert preferred(family.posterior(given.turns, given.sweep.group, given.values), curves[0], family.learnt)
    other = Elements(False, 0.05, P=128, settings=19)
    found = estimate(other.samples, H)
    curves = found.posterior(other.sweep.group, other.values)
    family = learn(other.turns, other.values, other.sweep.group, curves.curves, False, found.noise, 1e-8)
    assert not preferred(family.posterior(other.turns, other.sweep.group, other.values), curves, family.learnt)
    mixed = better_of(family.posterior(other.turns, other.sweep.group, other.values), curves, -math.inf)
    assert mixed.curves.shape == curves.curves.shape
