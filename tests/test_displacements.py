"""Whether elements have moved, how far, and what that does to slopes: from few readings of known curves."""

from __future__ import annotations

import warnings

import pytest
import torch

import blackprop as bp
from blackprop.core import metered, run
from blackprop.surrogates.calibration._curves import Curves, common_table
from blackprop.surrogates.calibration._displacement import APART, nearest, read_beside, within
from blackprop.surrogates.calibration._drift import displaced, moved
from blackprop.surrogates.calibration._range import Range
from blackprop.surrogates.calibration._spectra import Spectra, estimate
from blackprop.surrogates.calibration._waves import slopes, waves
from elements import Elements
from support import draw


@pytest.fixture
def found() -> Spectra:
    return estimate(Elements(False, 1e-3, own=0.0).samples, 8)


@pytest.fixture
def curves(found) -> Curves:
    """Of 200 elements that are alike, over a period of 1."""
    range_ = Range(True, torch.zeros(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64))
    own = torch.zeros(0, 200, 1, 2, dtype=torch.float64)
    return Curves(common_table(found), own, torch.zeros(6, dtype=torch.float64), range_)


# Elements that move while they are calibrated.


def test_the_mean_square_of_a_movement_is_told_from_noise():
    noise, walk = (draw(5000, seed=seed, dtype=torch.float64) for seed in (1, 2))
    assert moved(noise + walk, draw(5000, seed=3, dtype=torch.float64)) == pytest.approx(1, rel=0.1)
    for seed in range(20):
        assert moved(*(draw(5000, seed=100 + 2 * seed + k, dtype=torch.float64) for k in range(2))) == 0


def test_few_elements_that_moved_far_are_no_movement_of_all():
    """As errors of single readings are."""
    old = draw(5000, dtype=torch.float64)
    old[:20] += 100
    assert moved(old, draw(5000, seed=1, dtype=torch.float64)) == 0


@pytest.mark.parametrize("even", [False, True])
@pytest.mark.parametrize("o", [0.01, 0.02])
def test_the_cosine_of_slopes_to_those_of_displaced_elements_is_told(even, o):
    given = Elements(even, 1e-3)
    found = estimate(given.samples, 8)
    turns = torch.rand(2000, 1, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    away = turns + o * draw(2000, 1, seed=5, dtype=torch.float64)
    c = given.coefficients[:, None]
    power = float((((waves(away, 3, even) - waves(turns, 3, even)) * c).sum(2)).square().mean())
    here, there = ((slopes(t, 3, even) * c).sum(2).flatten() for t in (turns, away))
    cosine = float(torch.cosine_similarity(here, there, 0))
    assert 1 - displaced(found, power) == pytest.approx(1 - cosine, rel=0.25)
    assert displaced(found, 0.0) == 1
    assert displaced(found, 1e3) == 0


# Elements found on curves that are known.


def test_moved_elements_are_found_from_two_settings(curves):
    theta = torch.rand(200, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    true = 0.03 * draw(200, seed=2, dtype=torch.float64)
    places = [theta, theta + APART]
    values = torch.stack([curves.read(place + true)[0] for place in places])
    values += 1e-2 * draw(2, 200, seed=3, dtype=torch.float64)
    offset, left = nearest(curves, places, values, torch.zeros_like(theta), 1e-4)
    assert float((offset - true).abs().median()) < 0.003
    assert left < 4e-4
    stays, _ = nearest(curves, places, torch.stack([curves.read(p)[0] for p in places]), torch.zeros_like(theta), 1e-4)
    assert float(stays.abs().max()) == 0


def test_elements_are_found_from_every_other_setting_and_the_others_tell_how_well(curves):
    true = 0.02 * draw(200, seed=2, dtype=torch.float64)
    generator = torch.Generator().manual_seed(1)
    places = [torch.rand(200, generator=generator, dtype=torch.float64) for _ in range(8)]
    values = torch.stack([curves.read(place + true)[0] for place in places])
    start = torch.zeros(200, dtype=torch.float64)
    offset, left = within(curves, places, values, start, 1 / 12, 1e-6)
    assert float((offset - true).abs().max()) < 0.002
    assert left < 1e-3
    values[1::2] += draw(4, 200, seed=3, dtype=torch.float64)  # of which the search sees nothing
    again, left = within(curves, places, values, start, 1 / 12, 1e-6)
    assert torch.equal(again, offset)
    assert left == pytest.approx(1, rel=0.2)


@pytest.mark.parametrize(("start", "side"), [(-0.9, 1.0), (0.9, -1.0)])
def test_the_setting_beside_is_on_the_side_where_there_is_room(start, side):
    device = bp.devices.from_callable(
        lambda x, t: x @ t.view(3, 4).mT, in_shape=4, out_shape=3, theta_size=12, low=-1.0, high=1.0
    )
    spec, theta = device.declaration, torch.full((12,), start) + 0.02 * draw(12)
    range_ = Range.of(spec, theta, per_element=False)
    ledger, generator = bp.Ledger(), torch.Generator().manual_seed(0)
    places, values = run(read_beside(spec, range_, 2.0, theta, generator), metered(device, ledger))
    assert torch.equal(places[0], theta)
    torch.testing.assert_close(places[1], theta + side * 2 * APART)
    torch.testing.assert_close(values, torch.stack(places))  # here an element is its setting
    assert (ledger.total_rows, ledger.total_programmings) == (8, 2)


def test_rounding_that_elements_share_is_no_move():
    """Without noise two readings of a setting differ by rounding, alike in all elements of a row."""
    shared = 1e-7 * draw(50, 1, seed=4, dtype=torch.float64).abs().expand(50, 100).flatten()
    assert moved(2 * shared, shared, power=1.0) == 0
    assert moved(2 * shared, shared) > 0  # it is told by its size alone


@pytest.mark.parametrize("seed", range(3))
def test_a_noise_free_device_is_not_found_to_move(seed):
    device = bp.devices.ImperfectMicroring(32, 32, seed=seed)
    layer = bp.PhysicalLayer(device, generator=torch.Generator().manual_seed(seed))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", bp.errors.CalibrationWarning)  # of curves, where there is one
        layer(draw(8, 32, seed=seed).requires_grad_()).sum().backward()
    assert not layer.surrogate.verdict.moving
    assert layer.ledger.programmings[bp.Purpose.CALIBRATE] >= 16
