"""Estimators against each other and against autograd, at limits, in parts, and within bounds of memory."""

from __future__ import annotations

import copy

import pytest
import torch

import blackprop as bp
from blackprop.core import Purpose, metered, run
from blackprop.directions import Orthogonal
from blackprop.errors import ArgumentError, IncompatibleError
from blackprop.estimators import (
    Averaged,
    BatchContraction,
    Central,
    Coordinate,
    Forward,
    GuidedDirections,
    Oracle,
    RandomDirections,
)
from support import Opaque, backward, behind_a_linear, draw, make_layer


def _gradient(estimator, device, x, theta, grad_y, seed=0, ledger=None):
    y = device.oracle()(x, theta) if device.oracle() else device.inner.transfer(x, theta)
    generator = torch.Generator().manual_seed(seed)
    procedure = estimator.grad_theta(x, theta, y, grad_y, device.declaration, generator)
    return run(procedure, metered(device, ledger if ledger is not None else bp.Ledger()))


def _problem(device, rows=7, dtype=torch.float64):
    theta = device.theta.draw(torch.Generator().manual_seed(0)).to(dtype)
    return draw(rows, device.in_shape[0], dtype=dtype), theta, draw(rows, device.out_shape[0], seed=1, dtype=dtype)


SIMULATORS = [
    bp.devices.Matrix(6, 4),
    bp.devices.LowRank(6, 4, rank=2),
    bp.devices.LightModulator(6, 4),
    bp.devices.Microring(6, 4),
    bp.devices.MZIMesh(6, 4),
    bp.devices.ThreeSplitterMesh(6, 4),
    bp.devices.Monarch(6, 4),
    bp.devices.Resampling(6, 4),
    bp.devices.Diffraction(9, 4),
]


@pytest.mark.parametrize("device", SIMULATORS, ids=str)
@pytest.mark.parametrize("difference", [Forward(), Central()], ids=str)
def test_coordinates_are_autograd_on_every_simulator(device, difference):
    x, theta, grad_y = _problem(device)
    exact = _gradient(Oracle(), device, x, theta, grad_y)
    found = _gradient(Coordinate(1e-6, difference), device, x, theta, grad_y)
    torch.testing.assert_close(found, exact, rtol=1e-3, atol=1e-4 * float(exact.abs().max()))


@pytest.mark.parametrize("device", [d for d in SIMULATORS if d.linear], ids=str)
@pytest.mark.parametrize("estimator", [Coordinate(1e-5), RandomDirections(5, 1e-5)], ids=["coordinate", "random"])
def test_a_contracted_batch_gives_the_same_gradient(device, estimator):
    from dataclasses import replace

    x, theta, grad_y = _problem(device, rows=9)
    whole = _gradient(estimator, device, x, theta, grad_y)
    ledger = bp.Ledger()
    short = _gradient(replace(estimator, contraction=BatchContraction()), device, x, theta, grad_y, ledger=ledger)
    torch.testing.assert_close(short, whole, rtol=1e-6, atol=1e-6 * float(whole.abs().max()))
    assert ledger.total_rows % device.out_shape[0] == 0


def test_a_spanning_set_of_orthogonal_directions_is_the_gradient():
    device = bp.devices.LightModulator(6, 4)
    x, theta, grad_y = _problem(device)
    exact = _gradient(Oracle(), device, x, theta, grad_y)
    found = _gradient(RandomDirections(24, 1e-6, Orthogonal(), Central()), device, x, theta, grad_y)
    torch.testing.assert_close(found, exact, rtol=1e-6, atol=1e-8)


def test_a_fraction_of_the_batch_is_unbiased_and_cheaper():
    device = bp.devices.LightModulator(6, 4)
    x, theta, grad_y = _problem(device, rows=10)
    exact = _gradient(Oracle(), device, x, theta, grad_y)
    ledger = bp.Ledger()
    estimator = RandomDirections(4000, 1e-5, Orthogonal(), fraction=0.3)
    found = _gradient(estimator, device, x, theta, grad_y, ledger=ledger)
    assert ledger.total_rows == 4000 * 3
    assert float((found - exact).norm() / exact.norm()) < 0.2
    assert float((found - exact).norm() / exact.norm()) > 1e-3  # it is an estimate, of other rows each time


@pytest.mark.parametrize("at", [0.0, 1.0, 0.5])
@pytest.mark.parametrize(
    "estimator",
    [RandomDirections(3000, 1e-3), RandomDirections(3000, 1e-3, difference=Central()), Coordinate(1e-3)],
    ids=["forward", "central", "coordinate"],
)
def test_at_a_limit_the_gradient_is_right_and_no_setting_is_outside(estimator, at):
    device = bp.devices.from_callable(
        lambda x, theta: x * theta.sin(), in_shape=4, out_shape=4, theta_size=4, low=0.0, high=1.0
    )
    theta, x, grad_y = torch.full((4,), at), draw(5, 4), draw(5, 4, seed=1)
    y = x * theta.sin()
    procedure = estimator.grad_theta(x, theta, y, grad_y, device.declaration, torch.Generator().manual_seed(0))
    found = run(procedure, metered(device, bp.Ledger()))  # metered refuses what is outside
    exact = (grad_y * x).sum(0) * theta.cos()
    assert float((found - exact).norm() / exact.norm()) < 0.1


def test_a_step_that_does_not_fit_between_the_limits_is_refused():
    device = bp.devices.from_callable(lambda x, t: x * t, in_shape=2, out_shape=2, theta_size=2, low=0.0, high=1e-4)
    for estimator in (Coordinate(1e-3), RandomDirections(2, 1e-4)):
        with pytest.raises(bp.errors.IncompatibleError, match="use a smaller step"):
            bp.PhysicalLayer(device, estimator)


@pytest.mark.parametrize("estimator", [RandomDirections(40, 1e-4), Coordinate(1e-4)], ids=["random", "coordinate"])
def test_rounds_are_split_to_bound_memory_and_agree(estimator, monkeypatch):
    device = bp.devices.LightModulator(6, 4)
    x, theta, grad_y = _problem(device)
    whole = _gradient(estimator, device, x, theta, grad_y)
    for module in ("random_directions", "coordinate"):
        monkeypatch.setattr(f"blackprop.estimators._{module}.ROUND_BYTES", 10_000)
    ledger = bp.Ledger()
    parts = _gradient(estimator, device, x, theta, grad_y, ledger=ledger)
    if isinstance(estimator, Coordinate):
        torch.testing.assert_close(parts, whole)
    assert ledger.total_programmings == (40 if isinstance(estimator, RandomDirections) else 48)


def test_the_forward_rows_serve_as_the_base(opaque: Opaque):
    theta = opaque.theta.draw(torch.Generator().manual_seed(0))
    ledger = bp.Ledger()
    _gradient(RandomDirections(3), opaque, draw(2, 6), theta, draw(2, 4), ledger=ledger)
    assert ledger.rows == {Purpose.PARAMETER: 6}
    assert ledger.programmings == {Purpose.PARAMETER: 3}


# Estimators with state, for comparison.


def _learner(estimator, device):
    estimator.bind(device.declaration)
    return estimator.double()


def test_an_average_is_the_weighted_mean_of_what_was_found():
    device = bp.devices.LightModulator(6, 4)
    plain = RandomDirections(3, 1e-4)
    averaged, found = _learner(Averaged(plain, 0.7), device), []
    for step in range(5):
        x, theta, grad_y = (t * (1 + step) for t in _problem(device))
        found.append(_gradient(plain, device, x, theta, grad_y, seed=step))
        now = _gradient(averaged, device, x, theta, grad_y, seed=step)
        weights = 0.7 ** torch.arange(step, -1, -1, dtype=torch.float64)
        torch.testing.assert_close(now, weights @ torch.stack(found) / weights.sum())


def test_the_variance_of_an_average_is_the_declared_one():
    device = bp.devices.LightModulator(6, 4)
    problem, averaged = _problem(device), _learner(Averaged(RandomDirections(4, 1e-6), 0.8), device)
    exact = _gradient(Oracle(), device, *problem)
    errors = [
        float((_gradient(averaged, device, *problem, seed=step) - exact).square().sum() / exact.square().sum())
        for step in range(2500)
    ]
    measured, law = sum(errors[50:]) / len(errors[50:]), averaged.relative_variance(24)
    assert law == pytest.approx(25 / 4 / 9)
    assert measured == pytest.approx(law, rel=0.15)


def _remembering(device, **settings):
    """Guided by three estimates on earlier batches."""
    guided = _learner(GuidedDirections(6, 1e-6, **settings), device)
    for step in range(3):
        x, theta, _ = _problem(device)
        _gradient(guided, device, x, theta, draw(7, 4, seed=10 + step, dtype=torch.float64), seed=step)
    return guided.eval()


@pytest.mark.parametrize(("alpha", "decay"), [(0.5, 0.0), (0.2, 0.0), (0.5, 0.9), (1.0, 0.0)])
def test_the_mean_of_guided_directions_is_the_gradient_seen_through_their_covariance(alpha, decay):
    device = bp.devices.LightModulator(6, 4)
    guided, problem = _remembering(device, memory=2, alpha=alpha, decay=decay), _problem(device)
    exact = _gradient(Oracle(), device, *problem)
    q = torch.linalg.svd(guided.past, full_matrices=False)[2]
    expected = alpha * exact + (1 - alpha) * 12 * q.mT @ (q @ exact)  # P/k = 12
    found = torch.stack([_gradient(guided, device, *problem, seed=seed) for seed in range(3000)])
    error = found.mean(0) - expected
    doubt = (found.var(0) / len(found)).sum().sqrt()
    assert float(error.norm()) < 1.5 * float(doubt)
    assert alpha == 1 or float((expected - exact).norm()) > 10 * float(doubt)


def test_the_momentum_and_the_last_estimates_span_what_guides():
    device = bp.devices.LightModulator(6, 4)
    plain, smooth = (_learner(GuidedDirections(6, 1e-6, memory=3, decay=decay), device) for decay in (0.0, 0.9))
    x, theta, grad_y = _problem(device)
    momentum, last = torch.zeros(24, dtype=torch.float64), []
    for step in range(6):
        last.append(_gradient(smooth, device, x, theta, grad_y, seed=step))
        momentum = 0.9 * momentum + 0.1 * last[-1]
        _gradient(plain, device, x, theta, grad_y, seed=step)
    expected = torch.linalg.qr(torch.stack([momentum, *last[-2:]]).mT).Q
    torch.testing.assert_close((expected.mT @ smooth.past.mT).norm(dim=0), torch.ones(3, dtype=torch.float64))
    assert float((expected.mT @ plain.past.mT).norm(dim=0).min()) < 0.99


def test_guidance_by_the_gradient_itself_finds_it():
    device = bp.devices.LightModulator(6, 4)
    guided, problem = _learner(GuidedDirections(2, 1e-6, memory=1, alpha=0.1), device).eval(), _problem(device)
    exact = _gradient(Oracle(), device, *problem)
    cosines = []
    for past in (torch.zeros(1, 24), exact[None] / exact.norm()):
        guided.past.copy_(past)
        guided.steps.fill_(int(past.any()))
        found = torch.stack([_gradient(guided, device, *problem, seed=seed) for seed in range(200)])
        cosines.append(float(torch.cosine_similarity(found, exact[None]).mean()))
    assert cosines[0] < 0.4
    assert cosines[1] > 0.9


@pytest.mark.parametrize(
    "make",
    [
        lambda: Averaged(RandomDirections(3, 1e-3), 0.5),
        lambda: GuidedDirections(3, 1e-3, memory=4),
        lambda: GuidedDirections(3, 1e-3, memory=1, decay=0.9, difference=Central(), contraction=BatchContraction()),
        lambda: Averaged(GuidedDirections(3, 1e-3, memory=4), 0.5),
    ],
    ids=["averaged", "guided", "momentum", "both"],
)
def test_estimators_with_state_train_a_layer_and_go_on_from_a_state_dict(make):
    def train(model, optimizer, steps):
        for step in steps:
            optimizer.zero_grad()
            loss = backward(model, draw(16, 5, seed=step % 3))
            optimizer.step()
        return float(loss)

    def build():
        layer = make_layer(Opaque(bp.devices.LightModulator(6, 4)), method=(make(), bp.surrogates.Streaming()))
        model = behind_a_linear(layer)
        model[0].requires_grad_(False)
        with torch.no_grad():
            layer.theta.copy_(draw(24))  # away from where it starts, whose outputs are small already
        return layer, model, torch.optim.SGD([layer.theta], lr=0.1)

    layer, model, optimizer = build()
    first = train(model, optimizer, range(1))
    train(model, optimizer, range(1, 60))
    state = copy.deepcopy(model.state_dict())
    last = train(model, optimizer, range(60, 70))
    assert last < 0.5 * first
    other, twin, twin_optimizer = build()
    train(twin, twin_optimizer, range(2))
    twin.load_state_dict(state)
    assert train(twin, twin_optimizer, range(60, 70)) == last
    assert torch.equal(other.theta, layer.theta)
    with pytest.raises(IncompatibleError, match=r"already serves .*one a layer"):
        bp.PhysicalLayer(bp.devices.LightModulator(6, 4), layer.estimator)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Averaged(Oracle(), 1.0), r"Averaged\(decay=...\)` must be in \[0, 1\), got 1"),
        (lambda: GuidedDirections(0), "GuidedDirections.count=...*at least 1"),
        (lambda: GuidedDirections(memory=0), "GuidedDirections.memory=...*at least 1"),
        (lambda: GuidedDirections(step=0), "GuidedDirections.step=...*positive"),
        (lambda: GuidedDirections(alpha=0), r"GuidedDirections.alpha=...*in \(0, 1\], got 0"),
        (lambda: GuidedDirections(decay=1.0), r"GuidedDirections.decay=...*in \[0, 1\), got 1"),
    ],
)
def test_wrong_settings_are_refused_in_words(make, message):
    with pytest.raises(ArgumentError, match=message):
        make()
