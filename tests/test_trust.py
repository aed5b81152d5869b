"""How far calibrated curves may be trusted: what is told of their slopes, beside the true ones."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from blackprop.surrogates.calibration._curves import clearest, smoothing
from blackprop.surrogates.calibration._spectra import estimate
from blackprop.surrogates.calibration._trust import TOLD, Surprise, surprise, trust
from blackprop.surrogates.calibration._waves import orders, slopes, waves
from elements import Elements
from support import draw

NONE = torch.zeros(1, 1)
UNTOLD = Surprise(wrong=0.0, over=1.0, missed=1.0, doubt=math.inf, errors=NONE)  # tells no more than the curves


@pytest.mark.parametrize("even", [False, True])
@pytest.mark.parametrize(("noise", "own"), [(1e-3, 1.0), (0.3, 1.0), (1.0, 0.3), (0.3, 0.0)])
def test_slopes_agree_with_the_true_ones_as_much_as_is_told(even, noise, own):
    given = Elements(even, noise, own=own)
    found = estimate(given.samples, 8)
    told = trust(found.posterior(given.sweep.group, given.values), UNTOLD)
    gain, _ = found.gains()
    group = given.sweep.group
    rest = given.values.mT - (found.waves @ found.common)[group]
    fitted = found.common + (gain[group] @ rest[..., None])[..., 0]
    turns = torch.rand(40, 2000, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    if even:  # evenly over the range, which is gone through as a cosine of the turn
        turns = (2 * turns - 1).acos() / (2 * math.pi)
    known, wide = slopes(turns, 3, even) * given.coefficients, slopes(turns, 8, even) * fitted
    scales = smoothing(orders(8, even, turns), even)[:, None]  # to the mean slopes over wider and wider parts
    true, every = known.sum(2), torch.stack([(wide * scale).sum(2) for scale in scales])
    ours = clearest(every, told.doubts)
    right = float((ours * true > 0).double().mean())
    if even:  # per θ
        speed = (2 * math.pi * turns).sin().clamp_min(0.05)
        true, ours = true / speed, ours / speed
    value = ((waves(turns, 3, even) * given.coefficients).sum(2) - (waves(turns, 8, even) * fitted).sum(2)).square()
    assert 0.7 * float(value.mean()) < told.left < 1.3 * float(value.mean()) + 5e-3
    assert told.cosine == pytest.approx(float(torch.cosine_similarity(true.flatten(), ours.flatten(), 0)), abs=0.03)
    assert told.signs == pytest.approx(right, abs=0.04)  # of the slope itself: these are all alike in size
    doubled = trust(found.posterior(group, given.values), replace(UNTOLD, over=2.0))
    assert doubled.cosine < told.cosine
    assert doubled.left == pytest.approx(2 * told.left)


@pytest.mark.parametrize("even", [False, True])
@pytest.mark.parametrize("settings", [5, 6, 7, 8])
@pytest.mark.parametrize("noise", [1e-3, 0.1])
def test_of_few_settings_no_more_is_told_than_is_so(even, settings, noise):
    """Fewer than a curve has coefficients: between them it is known worse than at them."""
    given = Elements(even, noise, settings=settings)
    found = estimate(given.samples, 8)
    told, group = trust(found.posterior(given.sweep.group, given.values), UNTOLD), given.sweep.group
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


def test_what_was_held_out_is_weighed_against_what_the_curves_expect():
    given = Elements(False, 0.3)
    found, group = estimate(given.samples, 8), given.sweep.group

    def cosine(missed: float, doubt: float, over: float = 1.0) -> float:
        return trust(found.posterior(group, given.values), Surprise(0.0, over, missed, doubt, NONE)).cosine

    untold = trust(found.posterior(group, given.values), UNTOLD).cosine
    # By few readings hardly; by many alone; by as many as the curves are known by, the geometric mean of what is left.
    assert cosine(0.5, 1e6) == pytest.approx(untold, abs=1e-3)
    assert cosine(0.5, 1e-6) == pytest.approx(math.sqrt(0.5), abs=1e-3)
    assert cosine(1e-3, 1e-6) == pytest.approx(math.sqrt(1 - 1e-3), abs=1e-3)
    assert 1 - cosine(0.5, TOLD) ** 2 == pytest.approx(math.sqrt((1 - untold**2) * 0.5))
    # One setting by itself only limits the cosine.
    assert cosine(0.5, 0.0) == pytest.approx(math.sqrt(0.5))
    assert cosine(1e-3, 0.0) == pytest.approx(untold)


@pytest.mark.parametrize("even", [False, True])
@pytest.mark.parametrize("noise", [1e-3, 0.3])
def test_what_was_held_out_is_predicted_as_well_as_is_told(even, noise):
    given = Elements(even, noise)
    found = estimate(given.samples, 8)

    def seen(held: Tensor, drift: float = 0.0) -> Surprise:
        return surprise(found.posterior(given.sweep.group, given.values), given.values, given.held, held, noise, drift)

    well = seen(given.unseen)
    assert well.over == pytest.approx(1, abs=0.2)
    assert noise < well.wrong < 2.5 * noise + 0.01
    if noise < 0.01:
        assert well.missed < 0.1
    else:  # that the share is not known so well is told
        assert well.doubt > 0.5
    off = 2 * draw(*given.unseen.shape, seed=9, dtype=torch.float64)
    spoilt = seen(given.unseen + off)
    assert spoilt.wrong == pytest.approx(well.wrong + 4, rel=0.1)
    assert spoilt.over > 2
    assert spoilt.missed > 0.5
    # The same, by so much as elements are known to have moved, is as expected.
    drifted = seen(given.unseen + off, 4.0)
    assert drifted.wrong == spoilt.wrong
    assert drifted.over == pytest.approx(1, abs=0.2)
    assert drifted.doubt > spoilt.doubt
    # The setting beside a sample is for the fit: it is not compared.
    assert seen(given.unseen + off * torch.tensor([1.0, 0.0, 0.0])[:, None]) == well


@pytest.mark.parametrize("even", [False, True])
def test_the_share_that_is_missed_is_that_of_the_slopes_between_samples(even):
    """Curves that are flattened by a factor miss so much of what readings differ by from their neighbours."""
    given = Elements(even, 1e-4, common=0.0)
    found, group = estimate(given.samples, 8), given.sweep.group
    F = waves(given.held[:, group], 3, even)
    apart = given.turns[None] - given.held[:, None]
    apart = apart if even else (apart + 0.5) % 1 - 0.5
    beside = given.values.gather(0, apart.abs().argmin(1)[:, group])
    straight = (F * given.coefficients).sum(2)
    for part in (0.2, 0.5):
        # The true curves rise more than those that are known.
        held = straight + part / (1 - part) * (straight - beside)
        held += math.sqrt(1e-4) * draw(*held.shape, seed=9, dtype=torch.float64)
        seen = surprise(found.posterior(group, given.values), given.values, given.held, held, 1e-4, 0.0)
        assert seen.missed == pytest.approx(part**2, rel=0.15)
    few, many = (
        surprise(
            found.posterior(group[:n], given.values[:, :n]), given.values[:, :n], given.held, held[:, :n], 1e-4, 0.0
        ).doubt
        for n in (200, 2000)
    )
    assert few / many == pytest.approx(10, rel=0.5)


@pytest.mark.parametrize("even", [False, True])
def test_one_setting_by_itself_tells_an_order_that_was_taken_for_another_and_no_more(even):
    given = Elements(even, 1e-3, settings=9)
    found, group = estimate(given.samples, 8), given.sweep.group
    seen = surprise(found.posterior(group, given.values), given.values, given.held, given.unseen, 1e-3, 0.0)
    assert (seen.missed, seen.doubt) == (1.0, math.inf)
    other = given.unseen + draw(*given.unseen.shape, seed=9, dtype=torch.float64)
    seen = surprise(found.posterior(group, given.values), given.values, given.held, other, 1e-3, 0.0)
    assert seen.missed > 0.5
    assert seen.doubt == 0


def test_changes_within_the_noise_tell_nothing():
    given = Elements(False, 0.0)
    found, group = estimate(given.samples, 8), given.sweep.group
    change = 0.25  # of the spread of the readings beside each other; the noise is more
    held = change * draw(*given.unseen.shape, dtype=torch.float64) + given.unseen
    for noise, told in ((1e-3, True), (10.0, False)):
        seen = surprise(found.posterior(group, given.values), given.values, given.held, held, noise, 0.0)
        assert math.isfinite(seen.doubt) == told
