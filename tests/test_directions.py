"""Families of directions: identity covariance, the declared variance, no global randomness."""

from __future__ import annotations

import pytest
import torch

from blackprop.directions import Directions, Gaussian, LowRankFactored, Orthogonal, Rademacher, Sphere
from blackprop.errors import ArgumentError
from support import draw

FAMILIES = [
    Gaussian(),
    Rademacher(),
    Sphere(),
    Orthogonal(),
    Orthogonal(2),
    LowRankFactored((2, 3), 4),
    LowRankFactored((6, 1)),
]


@pytest.mark.parametrize("family", FAMILIES, ids=str)
def test_covariance_is_the_identity(family: Directions, generator):
    u = torch.cat([family.sample(4, 6, generator, torch.zeros(())) for _ in range(20_000)])
    torch.testing.assert_close(u.mT @ u / len(u), torch.eye(6), atol=0.03, rtol=0)
    torch.testing.assert_close(u.mean(0), torch.zeros(6), atol=0.03, rtol=0)


@pytest.mark.parametrize("count", [1, 4, 6, 9, 16])
@pytest.mark.parametrize("family", FAMILIES, ids=str)
def test_the_variance_is_the_declared_one(family: Directions, count: int, generator):
    size, g = 6, draw(6)
    errors = []
    for _ in range(4000):
        u = family.sample(count, size, generator, g)
        errors.append(float((u.mT @ (u @ g) / count - g).square().sum()))
    measured = sum(errors) / len(errors) / float(g.square().sum())
    assert measured == pytest.approx(family.relative_variance(count, size), rel=0.1, abs=1e-6)


def test_a_spanning_orthogonal_set_is_exact(generator):
    u = Orthogonal().sample(7, 7, generator, torch.zeros((), dtype=torch.float64))
    torch.testing.assert_close(u.mT @ u / 7, torch.eye(7, dtype=torch.float64))


def test_blocks_span_their_parameters_apart_from_each_other(generator):
    u = Orthogonal(3).sample(4, 12, generator, torch.zeros((), dtype=torch.float64))
    for block in u.split(4, dim=1):
        torch.testing.assert_close(block.mT @ block / 4, torch.eye(4, dtype=torch.float64))
    assert not torch.allclose(u[:, :4], u[:, 4:8])
    assert Orthogonal(3).relative_variance(4, 12, part=4) == 0
    with pytest.raises(ArgumentError, match="do not fall into 5 equal blocks"):
        Orthogonal(5).sample(4, 12, generator, u)


@pytest.mark.parametrize("family", FAMILIES, ids=str)
def test_a_seed_repeats_and_the_global_stream_is_left_alone(family: Directions):
    state = torch.get_rng_state()
    a, b = (family.sample(3, 6, torch.Generator().manual_seed(1), torch.zeros(())) for _ in range(2))
    assert torch.equal(a, b)
    assert torch.equal(torch.get_rng_state(), state)
    assert float(a.abs().max()) <= family.reach(6)


@pytest.mark.parametrize(("shape", "part"), [((4, 6), 24), ((4, 6), 6), ((4, 6), 3), ((4, 6), 12), ((24, 1), 24)])
@pytest.mark.parametrize("rank", [1, 3])
def test_low_rank_directions_vary_as_declared_in_whole_and_in_part(shape, part, rank, generator):
    family, g = LowRankFactored(shape, rank), draw(24, dtype=torch.float64)[:part]
    u = family.sample(200_000, 24, generator, g)[:, :part]
    errors = ((u @ g)[:, None] * u - g).square().sum(1) / g.square().sum()
    law, doubt = family.relative_variance(1, 24, part), float(errors.std()) / len(errors) ** 0.5
    assert float(errors.mean()) == pytest.approx(law, abs=5 * doubt)
    assert law > 1.02 * Gaussian().relative_variance(1, 24, part) + 5 * doubt  # and the test can tell


def test_low_rank_directions_are_of_that_rank_and_shape(generator):
    u = LowRankFactored((5, 7), 2).sample(3, 35, generator, torch.zeros((), dtype=torch.float64))
    assert torch.linalg.matrix_rank(u.unflatten(1, (5, 7))).tolist() == [2, 2, 2]
    with pytest.raises(ArgumentError, match="is for 35 parameters, got 36"):
        LowRankFactored((5, 7)).sample(1, 36, generator, torch.zeros(()))
    for wrong in ({"shape": (0, 3)}, {"shape": (2, 3), "rank": 0}):
        with pytest.raises(ArgumentError, match="at least 1"):
            LowRankFactored(**wrong)
