"""Threshold networks: the optimality of the convex problem, measured patterns, and the network built from them."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

import blackprop as bp
from blackprop.core import Purpose
from blackprop.errors import ArgumentError, BudgetExhausted, CalibrationWarning, ShapeError
from blackprop.learning_rules import ThresholdNetwork
from blackprop.learning_rules.threshold._lasso import lasso, violation
from support import draw


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def comparators(d_in: int, d_out: int) -> bp.Device:
    """Steps in a black box without a derivative: 1{x u ≥ 0}, u the settings of each output."""
    return bp.devices.from_callable(
        lambda x, theta: (x @ theta.view(d_in, d_out) >= 0).float(),
        in_shape=d_in,
        out_shape=d_out,
        theta_size=d_in * d_out,
        low=-1.0,
        high=1.0,
    )


def solved(columns: np.ndarray, y: np.ndarray, w: np.ndarray, penalty: float) -> float:
    return 0.5 * float(np.square(columns @ w - y).sum()) + penalty * float(np.abs(w).sum())


@pytest.mark.parametrize(("n", "count"), [(6, 20), (40, 25), (60, 200)])
@pytest.mark.parametrize("share", [1e-4, 1e-2, 0.3])
def test_the_lasso_fulfils_its_optimality_conditions(n, count, share):
    rng = np.random.default_rng(n)
    columns = (rng.normal(size=(n, 4)) @ rng.normal(size=(4, count)) >= 0).astype(float)
    y = rng.normal(size=n)
    penalty = share * float(np.abs(columns.T @ y).max())
    w = lasso(columns, y, penalty)
    assert violation(columns, y, penalty, w) < 1e-6
    slopes = columns.T @ (y - columns @ w)  # once more, without the library's own measure
    assert np.abs(slopes).max() <= penalty * (1 + 1e-6)
    np.testing.assert_allclose(slopes[w != 0], penalty * np.sign(w[w != 0]), rtol=1e-6)
    for _ in range(20):  # a convex problem: every other point is worse
        other = w + 1e-3 * rng.normal(size=count)
        assert solved(columns, y, other, penalty) >= solved(columns, y, w, penalty)


def test_a_penalty_beyond_all_slopes_leaves_nothing():
    columns, y = np.eye(5), np.arange(5.0)
    assert not lasso(columns, y, 4.1).any()
    np.testing.assert_allclose(lasso(columns, y, 1.0), [0, 0, 1, 2, 3], atol=1e-12)  # the soft threshold of identity


def test_the_objective_falls_as_patterns_are_added_and_the_network_is_the_solution():
    x, penalty = draw(40, 6), 0.02
    teacher = draw(6, 8, seed=1)
    y = (x @ teacher).tanh() @ draw(8, 2, seed=2)
    objectives = []
    for settings in (2, 8, 32, 128):
        network = ThresholdNetwork(comparators(6, 4), threshold=0.5)
        network.fit(x, y, settings=settings, penalty=penalty, generator=seeded())
        errors = float((network(x) - y).square().sum() / 2)
        sizes = float(network.weights.abs().sum() + network.bias.abs().sum())
        assert network.objective == pytest.approx(errors + penalty * sizes, rel=1e-4)
        assert network.ledger.programmings[Purpose.CALIBRATE] in {settings + network.kept, settings + network.kept - 1}
        assert network.ledger.rows[Purpose.CALIBRATE] == 40 * (settings + network.kept)
        objectives.append(network.objective)
    assert all(after < before for before, after in itertools.pairwise(objectives))
    assert objectives[-1] < 0.2 * objectives[0]


@pytest.mark.parametrize("seed", range(3))
def test_where_all_patterns_are_measured_it_is_never_above_straight_through_training(seed):
    """n = 8 points in the plane: 2,000 comparators show all half-planes, and no gradient descent finds a better sum."""
    x, y, penalty = draw(8, 2, seed=seed), draw(8, 1, seed=10 + seed), 0.05
    network = ThresholdNetwork(comparators(2, 20), threshold=0.5)
    network.fit(x, y, settings=100, penalty=penalty, generator=seeded())
    assert network.patterns == 16  # all half-planes through the origin that part 8 points
    best = min(straight_through(x, y, penalty, rate, seed) for rate in (0.01, 0.03, 0.1))
    assert network.objective <= best + 1e-6
    assert best < 10 * network.objective  # gradient descent is a fair opponent


def straight_through(x: torch.Tensor, y: torch.Tensor, penalty: float, rate: float, seed: int) -> float:
    """The best objective of 20 steps trained with the slope of a sigmoid in place of that of the step."""
    u, w = draw(2, 20, seed=20 + seed).requires_grad_(), (0.1 * draw(21, 1, seed=30 + seed)).requires_grad_()
    optimizer, best = torch.optim.Adam([u, w], rate), float("inf")
    for _ in range(400):
        z = x @ u
        soft = torch.sigmoid(4 * z)
        steps = (z >= 0).float() + soft - soft.detach()
        columns = torch.cat([torch.ones(len(x), 1), steps], 1)
        loss = 0.5 * (columns @ w - y).square().sum() + penalty * w.abs().sum()
        best = min(best, float(loss.detach()))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return best


def test_it_classifies_rows_that_it_was_not_fitted_to_and_random_labels_it_cannot():
    device = bp.devices.LightModulator(5, 6)
    x, new = draw(80, 5), draw(200, 5, seed=1)
    normal = draw(5, 1, seed=2)
    right = []
    for labels in ((x @ normal).sign(), draw(80, 1, seed=3).sign()):
        network = ThresholdNetwork(device)
        network.fit(x, labels, settings=60, penalty=0.5, generator=seeded())
        right.append(float((network(new).sign() == (new @ normal).sign()).float().mean()))
    assert right[0] > 0.9
    assert right[1] < 0.7


def test_readings_that_repeat_badly_are_reported():
    device = bp.devices.Noisy(bp.devices.LightModulator(5, 4), read=0.5, seed=0)
    x = draw(40, 5)
    network = ThresholdNetwork(device)
    with pytest.warns(CalibrationWarning, match="differ at a second reading"):
        network.fit(x, x[:, :1].sign(), settings=20, penalty=0.1, generator=seeded())
    assert network.flips > 0.05


def test_a_saved_network_is_loaded_into_a_new_one_and_a_budget_ends_the_measurement():
    x, device = draw(20, 5), bp.devices.LightModulator(5, 4)
    network = ThresholdNetwork(device)
    network.fit(x, x[:, :2].sign(), settings=30, penalty=0.1, generator=seeded())
    again = ThresholdNetwork(device)
    again.load_state_dict(network.state_dict())
    assert torch.equal(again(x), network(x))
    short = ThresholdNetwork(device, budget=bp.Budget(programmings=3))
    with pytest.raises(BudgetExhausted):
        short.fit(x, x[:, :1], settings=30, penalty=0.1, generator=seeded())


def test_impossible_arguments_are_refused():
    network, x = ThresholdNetwork(bp.devices.LightModulator(5, 4)), draw(20, 5)
    with pytest.raises(ArgumentError, match="call `fit"):
        network(x)
    with pytest.raises(ArgumentError, match="penalty"):
        network.fit(x, x[:, :1], settings=3, penalty=0.0)
    with pytest.raises(ShapeError, match="row of y"):
        network.fit(x, x[:5, :1], settings=3, penalty=0.1)
