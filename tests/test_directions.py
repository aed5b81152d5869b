"""Families of directions: identity covariance, the declared variance, no global randomness."""

from __future__ import annotations

import pytest
import torch

from blackprop.directions import Directions, Gaussian, Orthogonal, Rademacher, Sphere
from support import draw

FAMILIES = [Gaussian(), Rademacher(), Sphere(), Orthogonal()]


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


@pytest.mark.parametrize("family", FAMILIES, ids=str)
def test_a_seed_repeats_and_the_global_stream_is_left_alone(family: Directions):
    state = torch.get_rng_state()
    a, b = (family.sample(3, 8, torch.Generator().manual_seed(1), torch.zeros(())) for _ in range(2))
    assert torch.equal(a, b)
    assert torch.equal(torch.get_rng_state(), state)
    assert float(a.abs().max()) <= family.reach(8)
