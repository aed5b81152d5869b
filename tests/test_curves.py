"""Calibrated curves by themselves: their range, their table and harmonics, mean slopes, and elements found on them."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

import blackprop as bp
from blackprop.surrogates.calibration._calibration import BLOCK, orthogonal, trustworthy
from blackprop.surrogates.calibration._curve_fit import CurveFit
from blackprop.surrogates.calibration._curves import (
    TABLE,
    WIDTHS,
    Curves,
    clearest,
    common_table,
    own_harmonics,
    read_common,
    read_harmonics,
    smoothing,
)
from blackprop.surrogates.calibration._displacement import nearest_offset
from blackprop.surrogates.calibration._range import Range
from blackprop.surrogates.calibration._spectra import estimate
from blackprop.surrogates.calibration._trust import Trust
from blackprop.surrogates.calibration._waves import slopes, waves
from blackprop.surrogates.calibration.compiled import _curves as compiled
from elements import Elements
from support import draw

EVEN = pytest.mark.parametrize("even", [False, True])


def declaration(**limits) -> bp.Declaration:
    device = bp.devices.from_callable(lambda x, t: x * t, in_shape=4, out_shape=4, theta_size=4, **limits)
    return device.declaration


# The range.


def test_a_period_is_gone_through_once():
    range_ = Range.of(declaration(period=3.0), torch.zeros(4), per_element=False)
    assert range_.periodic
    theta = torch.tensor([0.0, 0.75, 1.5, 2.9])
    turns, per_theta, beyond = range_.turns(theta)
    torch.testing.assert_close(turns, theta / 3)
    torch.testing.assert_close(per_theta.expand(4), torch.full((4,), 1 / 3))
    assert not beyond.any()
    torch.testing.assert_close(range_.setting(turns), theta)


@pytest.mark.parametrize("per_element", [False, True])
def test_limits_are_gone_through_there_and_back(per_element):
    low = torch.tensor([0.0, 1.0, 2.0, -1.0]) if per_element else torch.tensor([1.0])
    high = low + torch.tensor([1.0, 2.0, 4.0, 8.0]) if per_element else torch.tensor([5.0])
    spec = declaration(low=low if per_element else 1.0, high=high if per_element else 5.0)
    range_ = Range.of(spec, torch.zeros(4, dtype=torch.float64), per_element)
    assert not range_.periodic
    torch.testing.assert_close(range_.low, low.double())
    torch.testing.assert_close(range_.high, high.double())
    there = torch.linspace(0, 0.5, 7, dtype=torch.float64)[:, None].expand(7, 4)
    assert torch.equal(range_.setting(torch.zeros(4)), high.double().expand(4))
    torch.testing.assert_close(range_.setting(there[-1]), low.double().expand(4))
    torch.testing.assert_close(range_.setting(there), range_.setting(1 - there))
    inside = range_.setting(there[3]) + 0.1
    leaf = inside.clone().requires_grad_()
    turns, per_theta, beyond = range_.turns(leaf)
    torch.testing.assert_close(range_.setting(turns), leaf)
    (derivative,) = torch.autograd.grad(turns.sum(), leaf)
    torch.testing.assert_close(per_theta, derivative)
    assert not beyond.any()


@pytest.mark.parametrize("end", [0.0, 4.0])
def test_near_its_ends_and_beyond_a_curve_is_read_a_little_inside(end):
    """There `dθ/du` vanishes; the curve goes on straight."""
    range_ = Range.of(declaration(low=0.0, high=4.0), torch.zeros(4), per_element=False)
    sign = -1.0 if end == 0.0 else 1.0
    theta = torch.tensor([end, end + sign * 0.5, end - sign * 0.01, end - sign * 1.0], dtype=torch.float64)
    turns, per_theta, beyond = range_.turns(theta)
    read_at = range_.setting(turns)
    clear = 2 * (1 - math.cos(0.15))
    expected = torch.tensor([end - sign * clear] * 3 + [end - sign], dtype=torch.float64)
    torch.testing.assert_close(read_at, expected)
    torch.testing.assert_close(beyond, theta - expected)
    assert float(per_theta.abs().max()) < 1 / (2 * math.pi * 2 * math.sin(0.14))


@pytest.mark.parametrize(("least", "signs"), [(0.92, 0.9), (0.97, 0.93)])
@pytest.mark.parametrize("elements", [1, 4, 100, 10_000])
def test_curves_are_trusted_above_a_cosine_and_a_share_of_signs_with_margins_for_few_elements(elements, least, signs):
    """To train by, and clearly, where more settings may be asked for; a cosine is never wanted that is out of reach."""
    limits = {} if least == 0.92 else {"least": (least, signs)}  # the former by default
    cosine = least + min(0.12 / math.sqrt(elements), 0.95 * (1 - least))
    share = signs + 0.05 / math.sqrt(elements)
    assert cosine < 1

    def trusted(cosine: float, signs: float) -> bool:
        return trustworthy(Trust(cosine, signs, 0.0, torch.zeros(6)), elements, **limits)

    assert trusted(cosine + 1e-3, share + 1e-3)
    assert not trusted(cosine - 1e-3, 1.0)
    assert not trusted(1.0, share - 1e-3)


@pytest.mark.parametrize("size", [1, 5, BLOCK + 3])
def test_probes_are_orthogonal_and_random(size):
    Q = orthogonal(size, torch.zeros(()), torch.Generator().manual_seed(0))
    torch.testing.assert_close(Q @ Q.mT, torch.eye(size), atol=1e-5, rtol=0)
    assert size == 1 or not torch.equal(Q, orthogonal(size, torch.zeros(()), torch.Generator().manual_seed(1)))


# Curves.


def chords(curve, turns: Tensor, even: bool) -> Tensor:
    """The mean slopes (S, *turns), per turn, of a curve over each of `WIDTHS` of its range."""
    found = []
    for width in WIDTHS:
        half = max(width / (2 if even else 1), 1e-5) / 2
        found.append((curve(turns + half) - curve(turns - half)) / (2 * half))
    return torch.stack(found)


@EVEN
def test_the_common_curve_and_its_mean_slopes_are_read_from_a_table(even):
    given = Elements(even, 1e-3)
    found = estimate(given.samples, 8)

    def curve(turns: Tensor) -> Tensor:
        return waves(turns, 8, even) @ found.common

    turns = draw(500, dtype=torch.float64)  # any number of turns
    table = common_table(found)
    value, tangent = read_common((table[:, 0].contiguous(), table[:, 1].contiguous()), turns * TABLE)
    mean_slopes = table[(turns * TABLE).round().long() % TABLE, 1:].mT
    torch.testing.assert_close(tangent, mean_slopes[0])
    torch.testing.assert_close(value, curve(turns), atol=1e-6, rtol=0)
    torch.testing.assert_close(mean_slopes, chords(curve, turns, even), atol=2e-2, rtol=0)
    torch.testing.assert_close(mean_slopes[0], slopes(turns, 8, even) @ found.common, atol=2e-2, rtol=0)


@EVEN
def test_what_an_element_adds_is_the_posterior_mean_and_so_are_its_slopes(even):
    given = Elements(even, 0.01, P=300)
    found = estimate(given.samples, 8)
    own = own_harmonics(CurveFit(found, None, given.turns), given.sweep, given.values, 9)
    gain, _ = found.gains()
    rest = given.values.mT - (found.waves @ found.common)[given.sweep.group]
    mean = (gain[given.sweep.group] @ rest[..., None])[..., 0]

    def curve(turns: Tensor) -> Tensor:
        return (waves(turns, 8, even) * mean).sum(1)

    turns = torch.rand(300, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    value, mean_slopes = read_harmonics(own, turns, even)
    torch.testing.assert_close(value, curve(turns), atol=1e-6, rtol=0)
    torch.testing.assert_close(mean_slopes, chords(curve, turns, even), atol=1e-4, rtol=0)


@EVEN
@pytest.mark.parametrize("room", [1, 2, 9])
def test_faint_orders_and_those_without_room_are_left_out(even, room):
    """The elements' own curves have orders to 3; one complex number holds two real ones of an even curve."""
    given = Elements(even, 0.01, P=300)
    found = estimate(given.samples, 8)
    own = torch.where(torch.arange(len(found.own)) < len(given.power), found.own, 1e-9)
    found = replace(found, own=own)
    assert len(own_harmonics(CurveFit(found, None, given.turns), given.sweep, given.values, room)) == min(
        room, 2 if even else 4
    )
    alike = Elements(even, 0.0, own=0.0)
    found = estimate(alike.samples, 8)
    assert len(own_harmonics(CurveFit(found, None, alike.turns), alike.sweep, alike.values, room)) == 0


@EVEN
@pytest.mark.parametrize("kept", [1, 2, 3, 4, 5])
def test_as_many_harmonics_are_held_as_the_last_order_that_is_not_faint_wants(even, kept):
    given = Elements(even, 0.01, P=300)
    found = estimate(given.samples, 8)
    found = replace(found, own=torch.where(torch.arange(len(found.own)) < kept, 1.0, 0.0).double())
    own = own_harmonics(CurveFit(found, None, given.turns), given.sweep, given.values, 9)
    assert len(own) == ((kept + 1) // 2 if even else kept // 2 + 1)
    gain, _ = found.gains()
    rest = given.values.mT - (found.waves @ found.common)[given.sweep.group]
    mean = (gain[given.sweep.group] @ rest[..., None])[..., 0]
    turns = torch.rand(300, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    value, _ = read_harmonics(own, turns, even)
    torch.testing.assert_close(value, (waves(turns, 8, even) * mean).sum(1), atol=1e-6, rtol=0)


@EVEN
def test_smoothing_is_what_a_mean_does_to_a_wave(even):
    order = torch.arange(6, dtype=torch.float64)
    scales = smoothing(order, even)
    assert scales.shape == (len(WIDTHS), 6)
    turns = torch.tensor([0.11], dtype=torch.float64)
    for h in range(1, 6):

        def wave(t: Tensor, h: int = h) -> Tensor:
            return (2 * math.pi * h * t).sin()

        slope = 2 * math.pi * h * (2 * math.pi * h * turns).cos()
        expected = (chords(wave, turns, even) / slope).flatten()
        torch.testing.assert_close(scales[:, h], expected, atol=1e-6, rtol=0)
    assert torch.equal(scales[:, 0], torch.ones_like(scales[:, 0]))


def test_the_first_slope_that_stands_out_is_taken_and_else_the_widest():
    every = torch.tensor([[5.0, 1.0, -1.0, 0.5], [4.0, 4.0, 0.2, 0.5], [3.0, 3.0, 3.0, 0.1]])
    doubts = torch.tensor([1.0, 0.5, 0.3])
    assert clearest(every, doubts).tolist() == pytest.approx([5.0, 4.0, 3.0, 0.1])
    assert clearest(-every, doubts).tolist() == pytest.approx([-5.0, -4.0, -3.0, -0.1])
    names = torch.arange(3.0)[:, None].expand(3, 4)
    assert clearest(every, doubts, names).tolist() == [0, 1, 2, 2]


# Elements found on their curves.


def test_elements_are_found_where_their_readings_and_where_they_were_agree_best():
    """`Σ (v − o)² / noise + (o − o₀)² / spread²` of a straight line: the precision-weighted mean."""
    values, before = 0.3 * draw(2, 50, dtype=torch.float64), 0.2 * draw(50, seed=1, dtype=torch.float64)
    noise, spread = 0.04, 0.3
    found, left = nearest_offset(lambda o, k: o, values, before, spread, noise)
    expected = (values.sum(0) / noise + before / spread**2) / (2 / noise + 1 / spread**2)
    assert float((found - expected).abs().max()) <= 3 * spread / 64 / 2 + 1e-9
    assert left == pytest.approx(float((values - found).square().mean()))


def test_both_sides_of_a_resonance_are_looked_at():
    """One reading has the same value on both sides, two tell them apart; a descent would stay where it began."""
    true = torch.linspace(-0.8, 0.8, 41, dtype=torch.float64)
    places = (0.0, 0.15)

    def read(o: Tensor, k: int) -> Tensor:
        return 1 / (1 + 20 * (o + places[k]).square())

    values = torch.stack([read(true, k) for k in range(2)])
    found, left = nearest_offset(read, values, torch.zeros_like(true), 0.5, 1e-4)
    assert float((found - true).abs().max()) < 0.03
    assert left < 1e-3
    alone, _ = nearest_offset(read, values[:1], torch.zeros_like(true), 0.5, 1e-4)
    assert float((alone.abs() - true.abs()).abs().max()) < 0.03


@pytest.mark.skipif(compiled._loop() is None, reason="needs Numba: the extra `fast`")
def test_compiled_code_reads_the_same_common_curve(monkeypatch):
    common = draw(TABLE), draw(TABLE, seed=1)
    place = TABLE * draw(compiled.MANY, seed=2)
    fast = read_common(common, place, 0.3)
    monkeypatch.setattr(compiled, "MANY", len(place) + 1)
    for one, other in zip(fast, read_common(common, place, 0.3), strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-6)


@EVEN
@pytest.mark.parametrize("orders", [2, 3, 5])
def test_own_curves_are_read_as_their_tangents_or_wider_where_those_are_vague(even, orders):
    """By fewer operations than all slopes of all elements, which `clearest` chooses from."""
    table = draw(TABLE, 1 + len(WIDTHS), seed=3)
    own, span = draw(orders, 40, 20, 2), torch.tensor([[0.0], [2.0]])
    doubts = torch.linspace(0.5, 0.01, len(WIDTHS))
    curves = Curves.of(table, own, doubts, span, not even)
    theta = 2 * torch.rand(800, generator=torch.Generator().manual_seed(0))
    value, slope = curves.read(theta)
    place, per_theta, beyond = curves.range.places(theta, TABLE)
    used = torch.view_as_complex(own).flatten(1)
    own_value, own_slopes = read_harmonics(used, place / TABLE, even)
    common, tangent = read_common((table[:, 0].contiguous(), table[:, 1].contiguous()), place)
    slopes = table[place.round().long() % TABLE, 1:].mT + own_slopes
    torch.testing.assert_close(slopes[0] - own_slopes[0], tangent)
    chosen = clearest(slopes, doubts) * per_theta
    assert 10 < int((slopes[0].abs() <= 3 * doubts[0]).sum()) < 700  # both kinds
    torch.testing.assert_close(slope, chosen, atol=1e-3, rtol=1e-4)
    expected = common + own_value
    torch.testing.assert_close(value, expected if beyond is None else expected + chosen * beyond, atol=1e-4, rtol=1e-4)
