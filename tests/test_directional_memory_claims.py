"""The memory's size, its forgetting, what it tells of itself and how it follows the data."""

from __future__ import annotations

import math

import pytest
import torch

import blackprop as bp
from blackprop.core import Purpose, Query, metered, run
from blackprop.devices import LightModulator, Noisy
from blackprop.estimators import ByOutput, DirectionalMemory
from support import draw


class Bench:
    """One batch at one θ, float64, on a device without noise unless told otherwise."""

    def __init__(self, device=None, seed: int = 0, rows: int = 64, x=None) -> None:
        self.device = device if device is not None else LightModulator(7, 5)
        self.spec = self.device.declaration
        self.x = x if x is not None else draw(rows, self.spec.d_in, seed=seed, dtype=torch.float64)
        self.grad_y = draw(len(self.x), self.spec.d_out, seed=seed + 1, dtype=torch.float64)
        self.theta = draw(self.spec.theta.size, seed=seed + 2, dtype=torch.float64)
        self.stream = torch.Generator().manual_seed(seed)
        self.asked: list[Query] = []

    def of(self, **settings) -> DirectionalMemory:
        full = {"count": 8, "size": 10**6, "rank": self.spec.d_in, "step": 1e-5, "refresh": 10_000, **settings}
        memory = DirectionalMemory(**full)
        memory.bind(self.spec)
        return memory.double()

    def estimate(self, memory: DirectionalMemory) -> torch.Tensor:
        measure = metered(self.device, bp.Ledger())

        def kept(queries):
            self.asked += queries
            return measure(queries)

        y = torch.zeros(len(self.x), self.spec.d_out, dtype=torch.float64)
        with torch.no_grad():
            return run(memory.grad_theta(self.x, self.theta, y, self.grad_y, self.spec, self.stream), kept)

    def truth(self) -> torch.Tensor:
        leaf = self.theta.clone().requires_grad_()
        transfer = (self.device.device if isinstance(self.device, Noisy) else self.device).transfer
        return torch.autograd.grad(transfer(self.x, leaf), leaf, self.grad_y)[0]


@pytest.mark.parametrize("steps", [1, 3, 6, 8])
def test_the_estimate_is_as_long_as_what_it_knows(steps):
    """The posterior mean is a projection of the gradient: `⟨ĝ, g⟩ = |ĝ|²` on average, for any number of directions.

    35 parameters need a family of 64, so its directions overlap: the sum over K of them is divided by 35 where they are
    few and by 64 where they are all.
    """
    along = length = 0.0
    for seed in range(30):
        bench = Bench(seed=3 * seed)
        memory = bench.of()
        for _ in range(steps):
            found = bench.estimate(memory)
        truth = bench.truth()
        along += float(found @ truth / truth.square().sum()) / 30
        length += float(found.square().sum() / truth.square().sum()) / 30
    assert along == pytest.approx(length, rel=0.1)
    K = 8 * steps
    assert along == pytest.approx(K / (35 + 29 * K / 64), rel=0.15)


def test_what_it_says_of_its_cosine_is_true_under_read_noise():
    """A reading that is half noise is worth half: two of a direction agree less, and that is counted."""
    told, true = [], []
    for seed in range(4):
        bench = Bench(Noisy(LightModulator(4, 4), read=0.01, seed=seed), seed=5 * seed)
        memory = bench.of(step=0.02, count=4, refresh=2)
        for step in range(80):
            found = bench.estimate(memory)
            if step >= 50:
                told.append(memory.cosine)
                true.append(float(torch.cosine_similarity(found, bench.truth(), dim=0)))
    expected = sum(true) / len(true)
    assert 0.4 < expected < 0.9  # the noise is felt
    assert sum(told) / len(told) == pytest.approx(expected, abs=0.12)


def test_what_was_learnt_of_staleness_is_forgotten_as_the_device_changes():
    """A detector that was noisy for 100 steps and is quiet since: after 300 more, readings are trusted again."""
    device = Noisy(LightModulator(4, 4), read=0.03)
    bench = Bench(device)
    memory = bench.of(step=0.02, count=4, refresh=2)
    for _ in range(100):
        bench.estimate(memory)
    assert memory.cosine < 0.5
    device._read_noise = 0.0
    for _ in range(300):
        found = bench.estimate(memory)
    assert float(torch.cosine_similarity(found, bench.truth(), dim=0)) > 0.99
    assert memory.cosine > 0.8


def test_the_basis_follows_the_data_into_another_subspace():
    """Rows of rank 2 in one plane and then in another: the memory of rank 2 must turn to see the second at all."""
    directions = torch.linalg.qr(draw(6, 4, dtype=torch.float64)).Q.mT
    planes = [draw(64, 2, seed=s, dtype=torch.float64) @ directions[2 * s : 2 * s + 2] for s in (0, 1)]
    bench = Bench(LightModulator(6, 4), x=planes[0])
    memory = bench.of(rank=2, count=32, size=32)

    def error() -> float:
        found, truth = bench.estimate(memory), bench.truth()
        return float((found - truth).norm() / truth.norm())

    assert error() < 1e-4
    bench.x = planes[1]
    errors = [error() for _ in range(40)]
    assert errors[0] > 0.9
    assert errors[-1] < 0.1


def test_rows_are_driven_at_the_amplitude_of_the_data_along_the_basis():
    bench = Bench(x=100 * draw(64, 7, seed=3, dtype=torch.float64))
    bench.estimate(bench.of(rank=3))
    length = float(bench.x.square().sum(1).mean().sqrt())
    for query in bench.asked:
        torch.testing.assert_close(query.x.norm(dim=1), torch.full((3,), length, dtype=torch.float64))
        torch.testing.assert_close(query.x @ query.x.mT, length**2 * torch.eye(3, dtype=torch.float64))
        assert query.purpose is Purpose.PARAMETER


def test_every_refreshth_measurement_repeats_an_old_direction():
    """Counted by settings: those of new directions are new, those of a repeated one have been asked before."""
    bench = Bench(LightModulator(16, 16))  # 256 directions
    memory = bench.of(count=4, refresh=4, rank=2)
    repeats = []
    for _ in range(30):
        before = len(bench.asked)
        bench.estimate(memory)
        old = torch.stack([query.theta for query in bench.asked[: before or 1]])
        now = bench.asked[before + 1 :]  # the first is at θ
        repeats.append(sum(bool((old - query.theta).abs().amax(1).min() < 1e-9) for query in now))
    assert repeats[0] == 0
    assert set(repeats[2:]) == {1}
    assert memory.diagnosis()["remembered"] == 4 * 30 - sum(repeats)


def test_the_newest_directions_stay_where_there_is_room_for_fewer():
    bench = Bench()
    memory = bench.of(size=16)
    for step in range(1, 7):
        bench.estimate(memory)
        assert memory.diagnosis()["remembered"] == min(16, 8 * step)
        assert memory.cosine == pytest.approx(math.sqrt(min(16, 8 * step) / (35 + 29 * min(16, 8 * step) / 64)))


def test_before_it_serves_a_device_it_tells_nothing_and_before_it_measured_that_it_knows_nothing():
    memory = DirectionalMemory()
    assert memory.cosine is None
    assert memory.diagnosis() == {}
    assert Bench().of().cosine == 0
    assert Bench().of().diagnosis()["remembered"] == 0


def test_what_is_missing_of_the_variance_is_what_is_not_remembered():
    assert [DirectionalMemory(size=size).relative_variance(120) for size in (30, 60, 120, 500)] == [3, 1, 0, 0]
    assert DirectionalMemory(size=30, credit=ByOutput(4)).relative_variance(120) == 0


def test_a_basis_that_sees_a_part_of_the_gradient_says_so():
    """Of rows of rank 6 a memory of rank 2 sees the two leading directions."""
    told, true = [], []
    for seed in range(5):
        bench = Bench(LightModulator(6, 4), seed=4 * seed)
        memory = bench.of(rank=2, count=32, size=32)
        found = bench.estimate(memory)
        told.append(memory.cosine)
        true.append(float(torch.cosine_similarity(found, bench.truth(), dim=0)))
    assert max(true) < 0.95
    assert sum(told) / 5 == pytest.approx(sum(true) / 5, abs=0.08)
