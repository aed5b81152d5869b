"""What surrogates ask, keep and refuse, each by itself."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import blackprop as bp
from blackprop.core import Purpose, Query, metered, run
from blackprop.directions import Rademacher
from blackprop.errors import ArgumentError, IncompatibleError
from blackprop.surrogates import (
    BasisUpdate,
    CalibratedResponse,
    Euler,
    Frozen,
    LowRankRecursive,
    Oracle,
    ProjectorSplitting,
    RandomFeedback,
    Reconstruction,
    Recursive,
    Streaming,
)
from support import draw

D_IN, D_OUT = 7, 5


class Bench:
    def __init__(self, surrogate, device=None) -> None:
        self.device = device if device is not None else bp.devices.LightModulator(D_IN, D_OUT)
        self.surrogate, self.rounds, self.ledger = surrogate, [], bp.Ledger()
        surrogate.bind(self.device.declaration)
        self.theta = self.device.theta.draw(torch.Generator().manual_seed(0))

    def run(self, procedure) -> list[Query]:
        self.rounds, measure = [], metered(self.device, self.ledger)

        def kept(queries: list[Query]) -> list[Tensor]:
            self.rounds.append(queries)
            return measure(queries)

        run(procedure, kept)
        return [query for round_ in self.rounds for query in round_]

    def start(self) -> list[Query]:
        return self.run(self.surrogate.start(self.theta, torch.Generator().manual_seed(0)))

    def move(self, seed: int = 1, size: float = 0.3) -> list[Query]:
        old, self.theta = self.theta, self.theta + size * draw(len(self.theta), seed=seed)
        return self.run(self.surrogate.track(old, self.theta, torch.Generator().manual_seed(seed)))

    def matrix(self) -> Tensor:
        return self.device.transfer(torch.eye(D_IN), self.theta).mT


@pytest.mark.parametrize(
    "make", [Frozen, Streaming, lambda: Reconstruction(3), lambda: ProjectorSplitting(3), lambda: BasisUpdate(3)]
)
def test_a_matrix_is_read_from_the_unit_rows_once(make):
    bench = Bench(make())
    (query,) = bench.start()
    assert torch.equal(query.x, torch.eye(D_IN))
    assert torch.equal(query.theta, bench.theta)
    assert query.purpose is Purpose.SURROGATE


def test_the_projector_asks_the_same_rows_at_the_old_and_the_new_setting():
    bench = Bench(ProjectorSplitting(2, 3, probes=Rademacher()))
    bench.start()
    V, old_theta = bench.surrogate.V.clone(), bench.theta
    old, new = bench.move()
    assert len(bench.rounds) == 1
    assert torch.equal(old.x, new.x)
    torch.testing.assert_close(old.x[:2], V)
    assert torch.equal(old.x[2:].abs(), torch.ones(3, D_IN))
    assert torch.equal(old.theta, old_theta)
    assert torch.equal(new.theta, bench.theta)


def test_the_basis_update_reads_twice_the_rank_anew_at_the_new_setting():
    bench = Bench(BasisUpdate(2, 3))
    bench.start()
    old, new, seen = bench.move()
    assert (len(old.x), len(new.x), len(seen.x)) == (5, 5, 4)
    assert torch.equal(seen.theta, bench.theta)
    torch.testing.assert_close(seen.x @ seen.x.mT, torch.eye(4))


@pytest.mark.parametrize("make", [lambda k: Reconstruction(5, k), lambda k: ProjectorSplitting(5, 2, rebuild_every=k)])
@pytest.mark.parametrize("every", [1, 2, 4])
def test_factors_are_rebuilt_at_every_kth_change_and_that_is_saved(make, every):
    bench = Bench(make(every))
    bench.start()
    rebuilt = []
    for step in range(1, 9):
        asked = bench.move(seed=step)
        rebuilt.append(len(asked) == 1 and len(asked[0].x) == D_IN)
        if rebuilt[-1]:
            torch.testing.assert_close(bench.surrogate.matrix(), bench.matrix(), rtol=1e-4, atol=1e-5)
        if step == 3:
            state = {name: value.clone() for name, value in bench.surrogate.state_dict().items()}
            bench.surrogate.load_state_dict(state)
            assert int(bench.surrogate.steps) == 3
    assert rebuilt == [step % every == 0 for step in range(1, 9)]


def test_a_bound_on_the_rank_is_the_smaller_side():
    for make in (ProjectorSplitting, BasisUpdate, Reconstruction):
        Bench(make(5)).start()
        with pytest.raises(IncompatibleError, match=r"min\(d_in, d_out\) = 5"):
            Bench(make(6))
        Bench(make(1)).start()
        with pytest.raises(ArgumentError, match="at least 1, got 0"):
            make(0)
    with pytest.raises(ArgumentError, match="every"):
        Reconstruction(every=0)
    with pytest.raises(ArgumentError, match="rebuild_every"):
        ProjectorSplitting(rebuild_every=0)
    with pytest.raises(ArgumentError, match="samples"):
        BasisUpdate(samples=0)


def test_a_nonlinear_device_is_taken_for_linear_only_when_told():
    device = bp.devices.Diffraction(9, 4)
    for make in (ProjectorSplitting, BasisUpdate, Reconstruction):
        with pytest.raises(IncompatibleError, match="treat_as_linear=True"):
            make(2).bind(device.declaration)
        make(2, treat_as_linear=True).bind(device.declaration)
    for refused in (Frozen(), Streaming()):
        with pytest.raises(IncompatibleError, match="needs a linear device"):
            refused.bind(device.declaration)


def test_gradients_are_those_of_the_factors_for_rows_of_any_shape():
    device = bp.devices.from_callable(
        lambda x, theta: (x.flatten(1) * theta).unflatten(1, (2, 3)),
        in_shape=(3, 2),
        out_shape=(2, 3),
        theta_size=6,
        linear=True,
    )
    theta = draw(6)
    for make in (Frozen, Streaming, lambda: Reconstruction(6), lambda: ProjectorSplitting(6)):
        surrogate = make()
        surrogate.bind(device.declaration)
        run(surrogate.start(theta, torch.Generator()), metered(device, bp.Ledger()))
        g = draw(4, 2, 3)
        found = surrogate.grad_x(draw(4, 3, 2), g)
        torch.testing.assert_close(found, (g.flatten(1) * theta).unflatten(1, (3, 2)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("make", [Frozen, Streaming, CalibratedResponse])
def test_what_is_expected_of_rows_is_what_the_device_answers(make):
    bench = Bench(make(), bp.devices.LightModulator(D_IN, D_OUT))
    bench.start()
    x = draw(9, D_IN, seed=4)
    torch.testing.assert_close(bench.surrogate.predict(x), bench.device.transfer(x, bench.theta), rtol=1e-3, atol=1e-3)
    assert Bench(RandomFeedback()).surrogate.predict(x) is None


def test_feedback_is_fixed_by_its_seed_uniform_and_asks_nothing():
    benches = [Bench(RandomFeedback(seed), bp.devices.LightModulator(64, 50)) for seed in (0, 0, 1)]
    first, same, other = (bench.surrogate.B for bench in benches)
    assert torch.equal(first, same)
    assert not torch.equal(first, other)
    assert float(first.abs().max()) <= 1 / 8
    assert float(first.std()) == pytest.approx(1 / 8 / math.sqrt(3), rel=0.05)
    assert abs(float(first.mean())) < 0.01
    assert benches[0].start() == benches[0].move() == []
    assert torch.equal(benches[0].surrogate.B, same)
    g = draw(3, 50)
    torch.testing.assert_close(benches[0].surrogate.grad_x(draw(3, 64), g), g @ same)
    with pytest.raises(ArgumentError, match="whole number"):
        RandomFeedback(1.5)


def test_the_eulers_gradient_is_the_sum_over_the_steps():
    device = bp.devices.from_callable(
        lambda x, t: x[:, None].expand(-1, 4, -1), in_shape=3, out_shape=(4, 3), theta_size=1
    )
    surrogate = Euler()
    surrogate.bind(device.declaration)
    g = draw(2, 4, 3)
    torch.testing.assert_close(surrogate.grad_x(draw(2, 3), g), g.sum(1))
    for wrong in ((3, 3), (3, (4, 2)), (3, (4, 3, 1)), ((2, 3), (4, 3))):
        other = bp.devices.from_callable(lambda x, t: x, in_shape=wrong[0], out_shape=wrong[1], theta_size=1)
        with pytest.raises(IncompatibleError, match="needs a rollout"):
            Euler().bind(other.declaration)


def test_the_oracle_stands_where_it_was_put():
    bench = Bench(Oracle(), bp.devices.Diffraction(9, 4))
    bench.start()
    x, g = draw(3, 9), draw(3, 4, seed=1)
    for _ in range(2):
        leaf = x.clone().requires_grad_()
        (truth,) = torch.autograd.grad(bench.device.transfer(leaf, bench.theta), leaf, g)
        torch.testing.assert_close(bench.surrogate.grad_x(x, g), truth)
        assert bench.move() == []


def test_one_surrogate_stands_for_one_device_and_knows_none_before():
    surrogate = Frozen()
    with pytest.raises(IncompatibleError, match="not bound to a device"):
        _ = surrogate.spec
    Bench(surrogate)
    with pytest.raises(IncompatibleError, match="already stands for"):
        Bench(surrogate)
    assert surrogate.diagnosis() == {}
    theta = draw(35)
    assert surrogate.compensate_drift(theta) is theta


# Rules of a stream.


@pytest.mark.parametrize("forgetting", [-0.1, 1.0, 1.5, math.nan])
def test_a_part_that_is_forgotten_is_below_one(forgetting):
    for make in (Recursive, lambda kept: LowRankRecursive(2, kept)):
        with pytest.raises(ArgumentError, match="forgetting"):
            make(forgetting)
        make(0.0)
    with pytest.raises(ArgumentError, match="rank"):
        LowRankRecursive(0)
    LowRankRecursive(D_IN).check(bp.devices.LightModulator(D_IN, D_OUT).declaration)
    with pytest.raises(IncompatibleError, match=f"above d_in = {D_IN}"):
        LowRankRecursive(D_IN + 1).check(bp.devices.LightModulator(D_IN, D_OUT).declaration)


@pytest.mark.parametrize("rows", [3, D_IN, 40])
@pytest.mark.parametrize("ridge", [1e-3, 0.5])
def test_one_batch_corrects_by_the_ridge_relative_to_its_rows(rows, ridge):
    """`Â += Eᵀ (X Xᵀ + ρ I)⁻¹ X`, ρ = ridge · mean squared norm: the same for rows of any size and number."""
    x, y = draw(rows, D_IN), draw(rows, D_OUT, seed=1)
    for scale in (1.0, 100.0):
        bench = Bench(Streaming(ridge, exact_start=False))
        bench.surrogate.observe(scale * x, y)
        damping = ridge * x.square().sum() / rows
        expected = torch.linalg.solve(x.mT @ x + damping * torch.eye(D_IN), x.mT @ y).mT / scale
        torch.testing.assert_close(bench.surrogate.A, expected, rtol=1e-3, atol=1e-4 / scale)


def test_an_offset_is_the_mean_of_what_the_matrix_leaves():
    bench = Bench(Streaming(1e-6, exact_start=False, bias=True))
    A, b = draw(D_OUT, D_IN), draw(D_OUT, seed=2)
    for seed in range(3):
        x = draw(60, D_IN, seed=seed) + 1
        bench.surrogate.observe(x, x @ A.mT + b)
    torch.testing.assert_close(bench.surrogate.A, A, rtol=1e-3, atol=1e-3)
    x = draw(60, D_IN, seed=9) + 1
    bench.surrogate.observe(x, x @ A.mT + b)
    torch.testing.assert_close(bench.surrogate.b, b, rtol=1e-2, atol=1e-2)
    torch.testing.assert_close(bench.surrogate.predict(x), x @ A.mT + b, rtol=1e-2, atol=1e-2)
