"""LOZO and ZO-Muon: what they claim of their estimates, their subspaces and their steps."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import blackprop as bp
from blackprop.errors import ArgumentError
from blackprop.optim import LOZO, ZOMuon
from blackprop.testing import check_optimizer
from support import draw


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def matrix(rows: int, columns: int) -> nn.Parameter:
    return nn.Parameter(torch.zeros(rows, columns, dtype=torch.float64))


def test_lozo_keeps_its_contract():
    claims = dict(check_optimizer(lambda m, g: LOZO(m.parameters(), 0.01, generator=g, model=m)).claims)
    assert float(claims["bias order"]) == pytest.approx(2, rel=0.1)
    assert "relative variance" in claims


def test_the_mean_over_subspaces_is_the_gradient_and_its_variance_the_declared_one():
    """Over 4,000 steps of 12 × 20 parameters, each with a subspace of its own."""
    p, slope = matrix(12, 20), draw(12, 20, dtype=torch.float64)
    optimizer = LOZO([p], 1.0, interval=1, rank=2, generator=seeded())
    total, squares = torch.zeros_like(p), 0.0
    for _ in range(4000):
        (grad,) = optimizer.estimate(lambda: torch.sum(p * slope))
        total += grad / 4000
        squares += float((grad - slope).square().sum() / slope.square().sum()) / 4000
        optimizer.steps += 1
    declared = optimizer.relative_variance(240)  # the law of the most nearly square matrix, 15 × 16
    assert squares == pytest.approx(declared, rel=0.15)
    assert float((total - slope).norm() / slope.norm()) < 1.5 * math.sqrt(declared / 4000)


@pytest.mark.parametrize("method", [LOZO, ZOMuon])
def test_steps_of_an_interval_lie_in_one_subspace_and_those_of_the_next_in_another(method):
    p, slope = matrix(16, 24), draw(16, 24, dtype=torch.float64)
    optimizer = method([p], 0.1, rank=3, interval=5, generator=seeded())
    ends = [p.detach().clone()]
    for _ in range(10):
        optimizer.step(lambda: torch.sum(p * slope))
        ends.append(p.detach().clone())
    first, second = ends[5] - ends[0], ends[10] - ends[5]
    assert torch.linalg.matrix_rank(first) <= 3
    assert torch.linalg.matrix_rank(second) <= 3
    assert torch.linalg.matrix_rank(first + second) > 3
    state = optimizer.state_dict()
    again = method([p], 0.1, rank=3, interval=5, generator=seeded(9))
    again.load_state_dict(state)
    here = p.detach().clone()
    optimizer.step(lambda: torch.sum(p * slope))
    moved = p.detach().clone()
    p.data.copy_(here)
    again.step(lambda: torch.sum(p * slope))
    assert torch.equal(p.detach(), moved)


def test_a_step_of_zo_muon_is_equally_long_in_all_directions_of_its_subspace():
    p, slope = matrix(16, 24), draw(16, 24, dtype=torch.float64)
    optimizer = ZOMuon([p], 0.1, rank=4, directions=3, generator=seeded())
    optimizer.step(lambda: torch.sum(p * slope))
    values = torch.linalg.svdvals(p.detach())
    torch.testing.assert_close(values[:4], torch.full((4,), 0.1, dtype=torch.float64))
    assert float(values[4:].max()) < 1e-12


def test_with_many_directions_it_is_the_orthogonal_part_of_the_projected_gradient():
    p, slope = matrix(8, 12), draw(8, 12, dtype=torch.float64)
    optimizer = ZOMuon([p], 1.0, rank=4, directions=20_000, generator=seeded())
    (step,) = optimizer.estimate(lambda: torch.sum(p * slope))
    basis = torch.linalg.svd(step).U[:, :4]
    projected = basis @ (basis.T @ slope)
    left, _, right = torch.linalg.svd(projected, full_matrices=False)
    exact = left[:, :4] @ right[:4]
    assert float((step * exact).sum() / (step.norm() * exact.norm())) > 0.98


def test_vectors_are_folded_and_small_tensors_move_along_their_normalised_estimate():
    theta, bias = nn.Parameter(torch.zeros(96)), nn.Parameter(torch.zeros(5))
    slope = draw(96)
    optimizer = ZOMuon([theta, bias], 0.1, rank=3, generator=seeded())
    optimizer.step(lambda: theta @ slope + bias.sum())
    values = torch.linalg.svdvals(theta.detach().view(8, 12))
    torch.testing.assert_close(values[:3], torch.full((3,), 0.1), rtol=1e-4, atol=1e-6)
    assert float(bias.detach().norm()) == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("method", "options", "passes"), [(LOZO, {"betas": (0.9, 0.999)}, 2), (ZOMuon, {"momentum": 0.9}, 5)], ids=str
)
def test_they_train_an_opaque_device_by_its_loss_at_the_declared_price(method, options, passes):
    device = bp.devices.Declared(bp.devices.LightModulator(12, 8), linear=False, coupling=bp.Coupling.NONE)
    target = bp.devices.LightModulator(12, 8)
    x = draw(32, 12)
    layer = bp.PhysicalLayer(device, generator=seeded())
    y = target.transfer(x, 6.28 * torch.rand(96, generator=seeded(7)))
    optimizer = method([layer.theta], 0.1, generator=seeded(), model=layer, **options)
    losses = [float(optimizer.step(lambda: (layer(x) - y).square().mean())) for _ in range(600 // passes)]
    assert sum(losses[-5:]) < 0.5 * sum(losses[:5])
    assert layer.ledger.rows[bp.Purpose.FORWARD] in {32 * passes * len(losses), 32 * (passes * len(losses) + 1)}


@pytest.mark.parametrize(
    ("method", "wrong"),
    [(LOZO, {"rank": 0}), (LOZO, {"interval": 0}), (ZOMuon, {"rank": 0}), (ZOMuon, {"directions": 0})],
    ids=str,
)
def test_impossible_options_are_refused(method, wrong):
    with pytest.raises(ArgumentError, match=next(iter(wrong))):
        method([nn.Parameter(torch.ones(2))], 0.1, **wrong)
