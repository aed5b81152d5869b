"""A twin by itself: where it calibrates, in which rounds, by which steps it is fitted, and what residual it expects."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

import blackprop as bp
from blackprop.core import Purpose, Query, metered, run
from blackprop.surrogates import Twin
from support import draw

P, D_IN, D_OUT = 6, 3, 2


class Scaled(nn.Module):
    """`y = w ⊙ (x · θ)`, of which w is to be found."""

    def __init__(self, w: float = 1.0) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.full((D_OUT,), w))

    def forward(self, x: Tensor, theta: Tensor) -> Tensor:
        return self.w * (x @ theta.view(D_OUT, D_IN).mT)


W = torch.tensor([1.3, 0.6])


def device(noise: float = 0.0, **limits) -> bp.Device:
    plain = bp.devices.from_callable(
        lambda x, theta: W.to(x) * (x @ theta.view(D_OUT, D_IN).mT),
        in_shape=D_IN,
        out_shape=D_OUT,
        theta_size=P,
        linear=True,
        **limits,
    )
    return bp.devices.Noisy(plain, read=noise) if noise else plain


class Bench:
    def __init__(self, twin: Twin, on: bp.Device | None = None, input_rms: float | None = None) -> None:
        self.device, self.twin = on or device(), twin
        twin.bind(self.device.declaration)
        twin.input_rms = input_rms
        self.theta = draw(P).abs() + 0.5
        self.rounds: list[list[Query]] = []
        measure = metered(self.device, bp.Ledger())

        def kept(queries: list[Query]) -> list[Tensor]:
            self.rounds.append(queries)
            return measure(queries)

        self.measure = kept

    def start(self, seed: int = 0) -> list[Query]:
        with torch.no_grad():
            run(self.twin.start(self.theta, torch.Generator().manual_seed(seed)), self.measure)
        return [query for round_ in self.rounds for query in round_]

    def batch(self, seed: int = 0, error: float = 0.0) -> None:
        x = draw(8, D_IN, seed=seed)
        with torch.no_grad():
            y = self.twin.model(x, self.theta)
            self.twin.observe(x, y * (1 + error))


@pytest.mark.parametrize("fit_steps", [0, 1, 5])
def test_a_calibration_asks_its_settings_and_rows_once_and_none_without_a_fit(fit_steps):
    bench = Bench(Twin(Scaled(), settings=40, rows=5, fit_steps=fit_steps))
    asked = bench.start()
    if not fit_steps:
        assert asked == []
        return
    assert [tuple(query.x.shape) for query in asked] == [(5, D_IN)] * 40
    assert len(bench.rounds) == 1
    assert {query.purpose for query in asked} == {Purpose.CALIBRATE}
    assert len({tuple(query.theta.tolist()) for query in asked}) == 40
    assert bench.twin.monitor.allowance == 200


def test_a_model_without_weights_to_fit_asks_nothing():
    model = Scaled()
    model.w.requires_grad_(False)
    bench = Bench(Twin(model))
    assert bench.start() == []
    assert torch.equal(bench.twin.theta, bench.theta)


@pytest.mark.parametrize("input_rms", [None, 0.02, 50.0])
def test_rows_are_driven_at_the_amplitude_of_the_data(input_rms):
    bench = Bench(Twin(Scaled(), settings=200, rows=5, fit_steps=1), input_rms=input_rms)
    x = torch.cat([query.x for query in bench.start()])
    assert float(x.square().sum(1).mean().sqrt()) == pytest.approx(input_rms or math.sqrt(D_IN), rel=0.05)


@pytest.mark.parametrize(
    ("limits", "low", "high"),
    [({"period": 4.0}, -2.0, 2.0), ({}, None, None), ({"low": 0.0, "high": 5.0}, 0.0, 5.0)],
)
def test_settings_lie_all_over_the_range_and_denser_towards_the_present_one(limits, low, high):
    """A random part of the way from θ to anywhere: the mean distance is half of that to a setting anywhere."""
    bench = Bench(Twin(Scaled(), settings=2000, rows=1, fit_steps=1), device(**limits))
    away = torch.stack([query.theta for query in bench.start()]) - bench.theta
    if limits.get("period"):
        ends = torch.stack((torch.full((P,), low), torch.full((P,), high)))
    elif limits:
        ends = torch.stack((low - bench.theta, high - bench.theta))
    else:
        ends = torch.stack([limit.expand(P) for limit in bench.device.theta.range_around(bench.theta)]) - bench.theta
    assert bool((away >= ends[0] - 1e-5).all() and (away <= ends[1] + 1e-5).all())
    torch.testing.assert_close(away.mean(0), ends.mean(0) / 2, atol=0.1 * float((ends[1] - ends[0]).max()), rtol=0)
    wide = (ends[1] - ends[0]).square() / 12 + ends.mean(0).square()
    torch.testing.assert_close(away.square().mean(0), wide / 3, rtol=0.15, atol=0)  # E part² = 1/3


@pytest.mark.parametrize("limit", [1, 800, 4000])
def test_a_calibration_is_read_in_rounds_that_are_bounded(limit, monkeypatch):
    def size(round_: list[Query]) -> int:
        return sum(4 * (q.theta.numel() + q.x.numel() + len(q.x) * D_OUT) for q in round_)

    found = []
    for most in (2**20, limit):
        monkeypatch.setattr("blackprop.surrogates._twin.ROUND_BYTES", most)
        bench = Bench(Twin(Scaled(), settings=32, rows=5, fit_steps=20))
        bench.start()
        found.append(bench.twin.model.w.clone())
    assert torch.equal(*found)  # however it is cut
    sizes = [size(round_) for round_ in bench.rounds]
    assert sum(map(len, bench.rounds)) == 32
    if limit == 1:
        assert len(sizes) == 32
    else:
        assert max(sizes) <= limit
        assert len(sizes) == math.ceil(32 / (limit // size(bench.rounds[0][:1])))


def test_the_fit_finds_the_weights_and_says_what_it_leaves():
    bench = Bench(Twin(Scaled(), settings=64, rows=10, fit_steps=400, lr=0.05))
    bench.start()
    torch.testing.assert_close(bench.twin.model.w, W, rtol=1e-3, atol=1e-3)
    assert float(bench.twin.residual) < 1e-3
    assert float(bench.twin.held_out) < 1e-3
    noisy = Bench(Twin(Scaled(), settings=64, rows=10, fit_steps=400, lr=0.05), device(noise=0.1))
    noisy.start()
    assert float(noisy.twin.residual) == pytest.approx(0.1, rel=0.15)
    assert float(noisy.twin.held_out) == pytest.approx(0.1, rel=0.3)


def test_one_setting_of_sixteen_is_held_out_of_the_fit():
    """A device that answers otherwise at the last settings: the fit does not know, and the check does."""
    for settings, held in ((15, 0), (16, 1), (32, 2), (40, 2)):
        bench = Bench(Twin(Scaled(), settings=settings, rows=8, fit_steps=400, lr=0.05))
        honest, first = bench.measure, settings - held

        def measure(queries: list[Query], honest=honest, first=first) -> list[Tensor]:
            return [-y if number >= first else y for number, y in enumerate(honest(queries))]

        bench.measure = measure
        bench.start()
        torch.testing.assert_close(bench.twin.model.w, W, rtol=1e-2, atol=1e-2)
        assert float(bench.twin.residual) < 0.01
        assert float(bench.twin.held_out) == (pytest.approx(2, abs=0.05) if held else math.inf)


@pytest.mark.parametrize("error", [0.001, 0.01, 0.2])
def test_a_batch_takes_steps_of_adam_at_a_rate_that_grows_with_the_residual(error):
    """3 lr times the relative residual, lr / 10 at most."""
    lr, steps = 0.03, 3
    bench = Bench(Twin(Scaled(), fit_steps=0, online_steps=steps, lr=lr))
    bench.start()
    w = nn.Parameter(bench.twin.model.w.clone())
    optimizer = torch.optim.Adam([w], betas=(0.9, 0.99))
    for seed in range(4):
        x = draw(8, D_IN, seed=seed)
        found = bench.twin.model(x, bench.theta)
        y = found * (1 + error)
        bench.twin.observe(x, y)
        residual = float((found - y).norm() / y.norm())
        optimizer.param_groups[0]["lr"] = lr * min(0.1, 3 * residual)
        for _ in range(steps):
            optimizer.zero_grad()
            ((w * (x @ bench.theta.view(D_OUT, D_IN).mT) - y).square().sum() / y.square().sum()).backward()
            optimizer.step()
        torch.testing.assert_close(bench.twin.model.w, w.detach(), rtol=1e-5, atol=1e-6)
    assert int(bench.twin.updates) == 4 * steps


def test_without_online_steps_or_light_nothing_is_learnt_of_a_batch():
    for twin, x in ((Twin(Scaled(), online_steps=0), draw(8, D_IN)), (Twin(Scaled()), torch.zeros(8, D_IN))):
        Bench(twin)
        before = twin.model.w.clone()
        twin.observe(x, 2 * (x @ draw(D_IN, D_OUT)))
        assert torch.equal(twin.model.w, before)
        assert twin.monitor.batches == 1


def test_what_is_to_be_expected_elsewhere_is_the_residual_by_the_weights_or_what_the_check_found():
    """`residual / (1 − n / N)` of n weights fitted to N numbers, at most ten times; or the check's, if that is more."""
    twin = Bench(Twin(Scaled(), settings=4, rows=2)).twin  # 2 weights, 16 numbers
    twin.residual.fill_(0.07)
    assert twin._expected == pytest.approx(0.07 / (1 - 2 / 16))
    twin.held_out.fill_(0.02)
    assert twin._expected == pytest.approx(0.08)
    twin.held_out.fill_(0.3)
    assert twin._expected == pytest.approx(0.3)
    few = Bench(Twin(Scaled(), settings=1, rows=1)).twin  # as many weights as numbers
    few.residual.fill_(0.07)
    assert few._expected == pytest.approx(0.7)


def test_a_new_calibration_forgets_what_the_batches_told():
    bench = Bench(Twin(Scaled(), settings=32, rows=5, fit_steps=10))
    bench.start()
    for seed in range(5):
        bench.batch(seed, error=0.3)
    assert int(bench.twin.updates)
    assert bool(bench.twin.moments.any())
    assert bool(bench.twin.statistics.any())
    bench.theta = bench.theta + 1
    bench.start(seed=1)
    for buffer in (bench.twin.updates, bench.twin.moments, bench.twin.statistics, bench.twin.said):
        assert not bool(buffer.any())
    assert torch.equal(bench.twin.theta, bench.theta)
