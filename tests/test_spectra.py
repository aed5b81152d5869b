"""The statistics of a calibration: spectra of the greatest likelihood, posterior means, places."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from blackprop.surrogates.calibration._spectra import Samples, Spectra, estimate
from blackprop.surrogates.calibration._sweep import MANY, NEAR, PLACES, Sweep
from blackprop.surrogates.calibration._waves import orders, slopes, waves
from elements import POWER, Elements
from support import draw


@pytest.mark.parametrize("even", [False, True])
def test_waves_are_orthonormal_over_a_turn_and_slopes_their_derivatives(even):
    turns = (torch.arange(64, dtype=torch.float64) + 0.3) / 64
    F = waves(turns, 5, even)
    assert F.shape[1] == (6 if even else 11) == len(orders(5, even, turns))
    torch.testing.assert_close(F.mT @ F / 64, torch.eye(F.shape[1], dtype=torch.float64), atol=1e-12, rtol=0)
    by_autograd = torch.autograd.functional.jacobian(lambda t: waves(t, 5, even), turns[3])
    torch.testing.assert_close(slopes(turns[3], 5, even), by_autograd)
    # An order repeats so many times in a turn.
    last = orders(5, even, turns) == 5
    torch.testing.assert_close(waves(turns + 1 / 5, 5, even)[:, last], F[:, last])


def test_sums_over_elements_say_power_variance_and_what_differs_within_groups():
    groups = [torch.tensor([0, 2, 5]), torch.tensor([1, 3, 4, 6])]
    values = draw(4, 7, dtype=torch.float64) + 3
    samples = Samples.of(draw(4, 2, dtype=torch.float64), groups, values, even=False)
    assert samples.size == 7
    assert samples.power == pytest.approx(float(values.square().mean()))
    assert samples.variance == pytest.approx(float(values.var(correction=0)))
    torch.testing.assert_close(samples.sums, torch.stack([values[:, some].sum(1) for some in groups]))
    torch.testing.assert_close(samples.moments[1], values[:, groups[1]] @ values[:, groups[1]].mT)
    # The pooled covariance, which has two degrees of freedom less than there are elements.
    scatter = [torch.cov(values[:, some]) * (len(some) - 1) for some in groups]
    torch.testing.assert_close(samples.within, torch.stack(scatter) * 7 / 5)


@pytest.mark.parametrize("even", [False, True])
@pytest.mark.parametrize("noise", [1e-3, 0.3])
def test_spectra_and_noise_are_found(even, noise):
    given = Elements(even, noise)
    found = estimate(given.samples, 8)
    own = found.own[: len(given.power)]
    by_order = torch.stack([own[given.order == h].mean() for h in range(4)])
    torch.testing.assert_close(by_order, torch.tensor(POWER, dtype=torch.float64), rtol=0.25, atol=0.02)
    assert float(found.own[len(given.power) :].sum()) < 0.01
    assert found.noise == pytest.approx(noise, rel=0.1)
    off = found.common[: len(given.common)] - given.common
    assert float((off.square() / found.doubt.diagonal()[: len(off)]).mean()) < 3  # standard errors, squared
    assert float((off.square() / found.doubt.diagonal()[: len(off)]).mean()) > 0.1
    assert float(found.doubt.diagonal()[: len(off)].max()) < 4 * max(POWER) / 2000


def likelihood(samples: Samples, found: Spectra, own: Tensor, noise: float) -> float:
    """−2 log-likelihood an element, of what elements differ by within their groups."""
    F = found.waves
    C = (F * own) @ F.mT + noise * torch.eye(F.shape[1], dtype=F.dtype)
    share = samples.counts / samples.size
    fit = (torch.linalg.inv(C) * samples.within / samples.size).sum()
    return float((torch.logdet(C) * share).sum() + fit)


@pytest.mark.parametrize("even", [False, True])
@pytest.mark.parametrize("noise", [1e-3, 0.3])
def test_no_other_spectrum_or_noise_is_more_likely(even, noise):
    given = Elements(even, noise, P=1000)
    found = estimate(given.samples, 8)
    best = likelihood(given.samples, found, found.own, found.noise)
    order = orders(8, even, given.turns)
    for factor in (0.8, 1.2):
        assert likelihood(given.samples, found, found.own, factor * found.noise) > best
        for h in range(4):
            other = torch.where(order == h, factor * found.own, found.own)
            assert likelihood(given.samples, found, other, found.noise) > best


@pytest.mark.parametrize("even", [False, True])
def test_elements_that_are_alike_have_no_spectrum_of_their_own(even):
    given = Elements(even, 0.0, own=0.0)
    found = estimate(given.samples, 8)
    assert not found.own.any()
    torch.testing.assert_close(found.common[: len(given.common)], given.common, rtol=1e-4, atol=1e-5)
    assert found.noise < 1e-6 * given.samples.power


@pytest.mark.parametrize("even", [False, True])
def test_orders_in_the_noise_are_expected_to_decay_as_those_above_it(even):
    """Beyond the tenth order little of a common curve stands out: it is known better than from its readings alone, or
    from none, and by about how much is told."""
    H, noise, P = 24, 0.01, 400
    errors, told, truths = torch.zeros(3, 6, dtype=torch.float64)
    for seed in range(6):
        sweep = Sweep.draw(P, 9, even, torch.zeros(()), torch.Generator().manual_seed(seed))
        grid, _ = sweep.call(0)
        order = orders(H, even, grid)
        common = 0.6**order * draw(len(order), seed=100 + seed, dtype=torch.float64)
        readings = (waves(grid[:, sweep.group], H, even) * common).sum(2)
        readings = readings + math.sqrt(noise) * draw(*readings.shape, seed=seed, dtype=torch.float64)
        found, faint = estimate(Samples.of(grid, sweep.groups, readings, even), 32), order > 10
        errors[seed] = (found.common[: len(order)] - common)[faint].square().sum()
        told[seed] = found.doubt.diagonal()[: len(order)][faint].sum()
        truths[seed] = common[faint].square().sum()
    unshrunk = noise / readings.numel() * int(faint.sum())
    assert float(errors.mean()) < 0.6 * min(unshrunk, float(truths.mean()))
    assert 1 / 3 < float(errors.mean() / told.mean()) < 3


@pytest.mark.parametrize("even", [False, True])
def test_noise_alone_is_taken_for_noise(even):
    given = Elements(even, 0.5, own=0.0)
    found = estimate(given.samples, 8)
    assert found.noise == pytest.approx(0.5, rel=0.05)
    assert float(found.own.sum()) < 0.02


def test_noise_is_never_less_than_what_is_known():
    given = Elements(False, 1e-4)
    assert estimate(given.samples, 8).noise < 2e-4
    assert estimate(given.samples, 8, 1e-2).noise == pytest.approx(1e-2)


@pytest.mark.parametrize("even", [False, True])
@pytest.mark.parametrize("noise", [1e-3, 0.3])
def test_what_is_left_of_a_coefficient_is_what_the_posterior_says(even, noise):
    given = Elements(even, noise, P=4000)
    found = estimate(given.samples, 3)
    group, (_, precision) = given.sweep.group, found.gains()
    curves = found.posterior(group, given.values)
    rest = given.values.mT - (found.waves @ found.common)[group]
    wrong = curves.curves - given.coefficients
    expected = curves.left.square().sum(2)[group].mean(0)
    torch.testing.assert_close(wrong.square().mean(0), expected, rtol=0.25, atol=1e-4)
    # Whitened, the samples less the common curve are as long as there are settings.
    whitened = (rest[:, None] @ precision[group] @ rest[..., None]).mean()
    assert float(whitened) == pytest.approx(rest.shape[1], rel=0.05)


# Places.


@pytest.mark.parametrize("even", [False, True])
@pytest.mark.parametrize("settings", [4, 8, 11, 12, 16])
def test_three_grids_are_a_regular_one_and_the_first_that_is_held_out_lies_beside_a_sample(even, settings):
    sweep = Sweep.draw(200, settings, even, torch.zeros(()), torch.Generator().manual_seed(0))
    assert torch.equal(torch.cat(sweep.groups).sort().values, torch.arange(200))
    sizes = [len(some) for some in sweep.groups]
    assert max(sizes) - min(sizes) <= 1
    assert all(bool((sweep.group[some] == g).all()) for g, some in enumerate(sweep.groups))
    on_grid = settings - (3 if settings >= MANY else 1)
    range_ = 0.5 if even else 1.0  # of turns: half a turn goes through the range once
    step = range_ / on_grid
    asked, grids = [], []
    for number in range(len(PLACES)):
        grid, held = sweep.call(number)
        assert grid.shape == (on_grid, len(sizes))
        assert held.shape == (settings - on_grid, len(sizes))
        asked.append(grid % range_)
        grids.append(grid % range_)
        apart = _apart(held[:1] % range_, torch.cat(asked), range_)
        assert float(apart.max()) <= NEAR + 1e-9
        assert float(apart.min()) > 0.99 * min(step / 12, NEAR)
        asked.append(held % range_)
    places = torch.cat(grids).sort(0).values
    gaps = torch.cat((places[1:] - places[:-1], places[:1] + range_ - places[-1:]))
    torch.testing.assert_close(gaps, torch.full_like(gaps, step / 3))
    # Groups begin at different places within a step, as many as there are.
    assert len({round(g * len(sizes)) for g in (grids[0].min(0).values / step % 1).tolist()}) > len(sizes) / 2


@pytest.mark.parametrize("even", [False, True])
@pytest.mark.parametrize("settings", [12, 14, 16, 30])
def test_the_others_that_are_held_out_are_amid_gaps_of_the_grids_and_each_in_its_own(even, settings):
    """Gaps of a step, of two thirds of one, and of a third, as calls are added."""
    sweep = Sweep.draw(200, settings, even, torch.zeros(()), torch.Generator().manual_seed(0))
    range_ = 0.5 if even else 1.0
    step, grids = range_ / (settings - 3), []
    for number, gap in enumerate((step, 2 * step / 3, step / 3)):
        grid, held = sweep.call(number)
        grids.append(grid % range_)
        for each in held[1:, None] % range_:
            assert 0.39 * gap < float(_apart(each, torch.cat(grids), range_).min()) < 0.51 * gap
        own = torch.searchsorted(grids[0].mT.sort(1).values.contiguous(), (held % range_).mT.contiguous())
        own = own if even else own % (settings - 3)  # the last gap of a period is the first
        assert all(len(set(gaps)) == 3 for gaps in own.tolist())


def _apart(held: Tensor, places: Tensor, range_: float) -> Tensor:
    away = (held - places).abs()
    return torch.minimum(away, range_ - away).min(0).values
