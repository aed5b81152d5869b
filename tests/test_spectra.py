"""The statistics of a calibration: spectra of the greatest likelihood, posterior means, places, what may be trusted."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from blackprop.surrogates.calibration._curves import clearest, smoothing
from blackprop.surrogates.calibration._spectra import Samples, Spectra, estimate, orders, slopes, waves
from blackprop.surrogates.calibration._sweep import NEAR, PLACES, Sweep
from blackprop.surrogates.calibration._trust import surprise, trust
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
    gain, left, precision = found.gains()
    group = given.sweep.group
    rest = given.values.mT - (found.waves @ found.common)[group]
    wrong = found.common + (gain[group] @ rest[..., None])[..., 0] - given.coefficients
    expected = left.diagonal(dim1=1, dim2=2)[group].mean(0)
    torch.testing.assert_close(wrong.square().mean(0), expected, rtol=0.25, atol=1e-4)
    # Whitened, the samples less the common curve are as long as there are settings.
    whitened = (rest[:, None] @ precision[group] @ rest[..., None]).mean()
    assert float(whitened) == pytest.approx(rest.shape[1], rel=0.05)


# Places.


@pytest.mark.parametrize("even", [False, True])
@pytest.mark.parametrize("settings", [4, 8, 16])
def test_three_grids_are_a_regular_one_and_what_is_held_out_lies_beside_a_sample(even, settings):
    sweep = Sweep.draw(200, settings, even, torch.zeros(()), torch.Generator().manual_seed(0))
    assert torch.equal(torch.cat(sweep.groups).sort().values, torch.arange(200))
    sizes = [len(some) for some in sweep.groups]
    assert max(sizes) - min(sizes) <= 1
    assert all(bool((sweep.group[some] == g).all()) for g, some in enumerate(sweep.groups))
    range_ = 0.5 if even else 1.0  # of turns: half a turn goes through the range once
    step = range_ / (settings - 1)
    asked, grids = [], []
    for number in range(len(PLACES)):
        grid, held = sweep.call(number)
        assert grid.shape == (settings - 1, len(sizes))
        asked.append(grid % range_)
        grids.append(grid % range_)
        apart = _apart(held % range_, torch.cat(asked), range_)
        assert float(apart.max()) <= NEAR + 1e-9
        assert float(apart.min()) > 0.99 * min(step / 12, NEAR)
        asked.append(held % range_)
    places = torch.cat(grids).sort(0).values
    gaps = torch.cat((places[1:] - places[:-1], places[:1] + range_ - places[-1:]))
    torch.testing.assert_close(gaps, torch.full_like(gaps, step / 3))
    # Groups begin at different places within a step, as many as there are.
    assert len({round(g * len(sizes)) for g in (grids[0].min(0).values / step % 1).tolist()}) > len(sizes) / 2


def _apart(held: Tensor, places: Tensor, range_: float) -> Tensor:
    away = (held - places).abs()
    return torch.minimum(away, range_ - away).min(0).values


# Trust.


@pytest.mark.parametrize("even", [False, True])
@pytest.mark.parametrize(("noise", "own"), [(1e-3, 1.0), (0.3, 1.0), (1.0, 0.3), (0.3, 0.0)])
def test_slopes_agree_with_the_true_ones_as_much_as_is_told(even, noise, own):
    given = Elements(even, noise, own=own)
    found = estimate(given.samples, 8)
    told = trust(found, given.sweep.group, given.values, 1.0)
    gain, _, _ = found.gains()
    group = given.sweep.group
    rest = given.values.mT - (found.waves @ found.common)[group]
    fitted = found.common + (gain[group] @ rest[..., None])[..., 0]
    turns = torch.rand(40, 2000, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    if even:  # evenly over the range, which is gone through as a cosine of the turn
        turns = (2 * turns - 1).acos() / (2 * math.pi)
    known, wide = slopes(turns, 3, even) * given.coefficients, slopes(turns, 8, even) * fitted
    scales = smoothing(orders(8, even, turns), even)[:, None]  # to the mean slopes over wider and wider parts
    true, means = known.sum(2), torch.stack([(known * scale[:, : known.shape[2]]).sum(2) for scale in scales])
    every = torch.stack([(wide * scale).sum(2) for scale in scales])
    ours, mean = clearest(every, told.doubts), clearest(every, told.doubts, means)
    right = [float((ours * each > 0).double().mean()) for each in (true, mean)]
    if even:  # per θ
        speed = (2 * math.pi * turns).sin().clamp_min(0.05)
        true, ours = true / speed, ours / speed
    value = ((waves(turns, 3, even) * given.coefficients).sum(2) - (waves(turns, 8, even) * fitted).sum(2)).square()
    assert 0.7 * float(value.mean()) < told.left < 1.3 * float(value.mean()) + 5e-3
    assert told.cosine == pytest.approx(float(torch.cosine_similarity(true.flatten(), ours.flatten(), 0)), abs=0.03)
    assert told.signs == pytest.approx(sum(right) / 2, abs=0.04)  # of the slope, and of the mean slope around it
    doubled = trust(found, group, given.values, 2.0)
    assert doubled.cosine < told.cosine
    assert doubled.left == pytest.approx(2 * told.left)


@pytest.mark.parametrize("even", [False, True])
@pytest.mark.parametrize("settings", [5, 6, 7, 8])
@pytest.mark.parametrize("noise", [1e-3, 0.1])
def test_of_few_settings_no_more_is_told_than_is_so(even, settings, noise):
    """Fewer than a curve has coefficients: between them it is known worse than at them."""
    given = Elements(even, noise, settings=settings)
    found = estimate(given.samples, 8)
    told, group = trust(found, given.sweep.group, given.values, 1.0), given.sweep.group
    rest = given.values.mT - (found.waves @ found.common)[group]
    fitted = found.common + (found.gains()[0][group] @ rest[..., None])[..., 0]
    turns = torch.rand(40, 2000, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    wrong = (waves(turns, 3, even) * given.coefficients).sum(2) - (waves(turns, 8, even) * fitted).sum(2)
    assert told.left > 0.8 * float(wrong.square().mean())
    if not even:
        known, wide = slopes(turns, 3, even) * given.coefficients, slopes(turns, 8, even) * fitted
        scales = smoothing(orders(8, even, turns), even)[:, None]
        ours = clearest(torch.stack([(wide * scale).sum(2) for scale in scales]), told.doubts)
        assert told.cosine < 0.02 + float(torch.cosine_similarity(known.sum(2).flatten(), ours.flatten(), 0))


@pytest.mark.parametrize("even", [False, True])
@pytest.mark.parametrize("noise", [1e-3, 0.3])
def test_what_was_held_out_is_predicted_as_well_as_is_told(even, noise):
    given = Elements(even, noise)
    found = estimate(given.samples, 8)
    wrong, over, missed = surprise(found, given.sweep.group, given.values, given.held, given.unseen)
    assert over == pytest.approx(1, abs=0.2)
    assert noise < wrong < 2.5 * noise + 0.01
    assert missed < 0.1
    spoilt = given.unseen + 2 * draw(*given.unseen.shape, seed=9, dtype=torch.float64)
    wrong, over, missed = surprise(found, given.sweep.group, given.values, given.held, spoilt)
    assert wrong > 4
    assert over > 2
    assert missed > 0.5
