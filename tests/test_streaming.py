"""What `Streaming` claims of its rules: exact, averaging by its law, never wound up, small, and resumed exactly."""

from __future__ import annotations

import math

import pytest
import torch

import blackprop as bp
from blackprop.devices import Diffraction, LightModulator
from blackprop.errors import ArgumentError, IncompatibleError
from blackprop.surrogates import LowRankRecursive, Projection, Recursive, Streaming
from support import draw

D_IN, D_OUT = 24, 12
RULES = [Projection(), Recursive(), Recursive(0.98), LowRankRecursive(8), LowRankRecursive(D_IN, 0.98)]
every = pytest.mark.parametrize("rule", RULES, ids=str)


def _bound(rule, d_in=D_IN, d_out=D_OUT, **kwargs):
    surrogate = Streaming(rule=rule, exact_start=False, **kwargs)
    surrogate.bind(LightModulator(d_in, d_out).declaration)
    return surrogate


def _error(surrogate, A):
    return float((surrogate.A - A).norm() / A.norm())


def _feed(surrogate, A, batches, rows, seed=0, noise=0.0):
    for k in range(batches):
        x = draw(rows, A.shape[1], seed=1000 * seed + k)
        surrogate.observe(x, x @ A.mT + noise * draw(rows, len(A), seed=-1 - k))


@pytest.mark.parametrize("rows", [1, 8, D_IN, 5 * D_IN])
@every
def test_a_fixed_device_is_learnt_exactly(rule, rows):
    surrogate, A = _bound(rule), draw(D_OUT, D_IN, seed=-7)
    _feed(surrogate, A, 60 if rows >= D_IN else 1200 // rows, rows)
    assert _error(surrogate, A) < 2e-3


def test_without_memory_recursion_is_the_projection():
    A, (recursion, projection) = draw(D_OUT, D_IN), (_bound(rule) for rule in (Recursive(0.0), Projection()))
    for k, rows in enumerate((1, 8, 60, 8)):
        for surrogate in (recursion, projection):
            _feed(surrogate, A, 1, rows, seed=k, noise=0.1)
        torch.testing.assert_close(recursion.A, projection.A, rtol=1e-4, atol=1e-5)


def test_with_full_memory_recursion_is_least_squares():
    """One step on all rows, or one row a step: as nothing is forgotten, the same ridge regression."""
    A, x = draw(D_OUT, D_IN), torch.nn.functional.normalize(draw(40, D_IN, seed=1))
    y, surrogate, noise = x @ A.mT + draw(40, D_OUT, seed=2), _bound(Recursive(1 - 1e-7), ridge=0.1), 0.1
    for row, reading in zip(x.split(1), y.split(1), strict=True):
        surrogate.observe(row, reading)
    ridge = torch.linalg.solve(x.mT @ x + noise * torch.eye(D_IN), x.mT @ y).mT
    torch.testing.assert_close(surrogate.A, ridge, rtol=1e-3, atol=1e-3)


def _stationary(forgetting, ridge):
    """The part of an error that a batch with `Xᵀ X = e I`, e / ρ = 1/ridge, corrects in the long run."""
    P = 1.0
    for _ in range(100_000):
        P = forgetting * P / (1 + P / ridge) + 1 - forgetting
    return P / (P + ridge)


@pytest.mark.parametrize("make", [Recursive, lambda kept: LowRankRecursive(8, kept)], ids=["full", "low rank"])
def test_noise_is_averaged_by_the_declared_law(make):
    """Mean squared error `g σ² / ((2 − g) e)`, and g falls as `√(1 − λ)`."""
    d, sigma, ridge, spreads, gaps = 8, 0.1, 2.0, [], (0.1, 0.01, 0.001)
    for gap in gaps:
        surrogate, A = _bound(make(1 - gap), d, 64, ridge=ridge), draw(64, d)
        surrogate.A.copy_(A)
        warm, seen = round(5 / math.sqrt(gap / ridge)), []
        for k in range(4 * warm):
            x = torch.linalg.qr(draw(d, d, seed=k))[0] * math.sqrt(d)
            surrogate.observe(x, x @ A.mT + sigma * draw(d, 64, seed=10_000 + k))
            seen += [float((surrogate.A - A).square().mean())] if k >= warm else []
        g = _stationary(1 - gap, ridge)
        spreads.append(sum(seen) / len(seen))
        assert spreads[-1] == pytest.approx(g * sigma**2 / ((2 - g) * d), rel=0.15)
    slope = math.log(spreads[1] / spreads[2]) / math.log(gaps[1] / gaps[2])
    assert slope == pytest.approx(0.5, abs=0.1)


def test_recursion_averages_noise_better_than_the_projection_while_it_follows():
    """The same moving device, 10 % read noise, each rule at its best of four ridges."""

    def error(rule, ridge):
        surrogate, A, way, seen = _bound(rule, ridge=ridge), draw(D_OUT, D_IN), draw(D_OUT, D_IN, seed=-3), []
        scales = torch.logspace(0.5, -1, D_IN)  # rows of real data: few strong directions, many weak ones
        for k in range(300):
            A = A + 0.01 * (0.3 * way + draw(D_OUT, D_IN, seed=5000 + k))
            x = draw(16, D_IN, seed=k) * scales
            surrogate.observe(x, x @ A.mT + 0.6 * draw(16, D_OUT, seed=-100 - k))
            seen += [_error(surrogate, A)] if k >= 150 else []
        return sum(seen) / len(seen)

    best = [min(error(rule, ridge) for ridge in (1e-2, 0.1, 1.0, 10.0)) for rule in (Projection(), Recursive(0.98))]
    assert best[1] < 0.9 * best[0]


@every
def test_directions_without_data_do_not_wind_up(rule):
    """2,000 steps within a third of the inputs, with noise; then all are excited, and no error grows."""
    surrogate, A = _bound(rule, ridge=0.1), draw(D_OUT, D_IN)
    surrogate.A.copy_(A)
    for k in range(2000):
        x = draw(4, D_IN, seed=k)
        x[:, D_IN // 3 :] = 0
        surrogate.observe(x, x @ A.mT + 0.05 * draw(4, D_OUT, seed=-k))
    torch.testing.assert_close(surrogate.A[:, D_IN // 3 :], A[:, D_IN // 3 :])  # what was not seen has not changed
    for k in range(50):
        _feed(surrogate, A, 1, 4, seed=10 + k, noise=0.05)
        assert _error(surrogate, A) < 0.1


@pytest.mark.parametrize("rule", [Recursive(0.98), LowRankRecursive(8, 0.98)], ids=str)
def test_five_thousand_steps_in_single_precision(rule):
    """Awkward rows among them: zero, constant, duplicate, huge and tiny."""
    surrogate, A = _bound(rule, ridge=1e-3), draw(D_OUT, D_IN)
    awkward = [torch.zeros(4, D_IN), torch.ones(4, D_IN), draw(1, D_IN).expand(40, -1), torch.eye(D_IN)[:1]]
    awkward += [1e4 * draw(4, D_IN), 1e-4 * draw(4, D_IN), torch.cat((torch.zeros(1, D_IN), draw(1, D_IN)))]
    for k in range(5000):
        x = awkward[k % 7] if k % 50 < 7 else draw(4, D_IN, seed=k)
        surrogate.observe(x, x @ A.mT)
    assert _error(surrogate, A) < 1e-3
    P = _unknown(surrogate)
    assert torch.equal(P, P.mT) or "W" in surrogate.state_dict()
    values = torch.linalg.eigvalsh(P)
    assert values.min() > -1e-5
    assert values.max() < 1 + 1e-5


@pytest.mark.parametrize("forgetting", [0.98, 0.9999])
def test_a_long_memory_stays_positive_in_single_precision(forgetting):
    surrogate, A = _bound(Recursive(forgetting), ridge=1e-3), draw(D_OUT, D_IN)
    _feed(surrogate, A, 2000, D_IN)
    assert torch.linalg.eigvalsh(surrogate.P).min() > 0
    assert _error(surrogate, A) < 1e-4


def _unknown(surrogate):
    state = surrogate.state_dict()
    return state["P"] if "P" in state else torch.eye(D_IN) - state["W"] * state["known"] @ state["W"].mT


@every
def test_rows_that_say_nothing_change_nothing(rule):
    surrogate = _bound(rule)
    _feed(surrogate, draw(D_OUT, D_IN), 3, 8)
    before = {name: value.clone() for name, value in surrogate.state_dict().items()}
    surrogate.observe(torch.zeros(4, D_IN), torch.ones(4, D_OUT))
    assert all(torch.equal(before[name], value) for name, value in surrogate.state_dict().items())


@pytest.mark.parametrize("rows", [1, 5, 40])
def test_low_rank_is_full_where_the_data_do_not_exceed_it(rows):
    low, full = _bound(LowRankRecursive(5, 0.9)), _bound(Recursive(0.9))
    span, A = draw(5, D_IN), draw(D_OUT, D_IN, seed=1)
    for k in range(50):
        x = draw(rows, 5, seed=k) @ span
        y = x @ A.mT + 0.1 * draw(rows, D_OUT, seed=-1 - k)
        for surrogate in (low, full):
            surrogate.observe(x, y)
    torch.testing.assert_close(low.A, full.A, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(_unknown(low), full.P, rtol=1e-3, atol=1e-4)


def test_a_rank_too_low_lies_between_projection_and_recursion():
    errors = []
    for rule in (Recursive(0.98), LowRankRecursive(12, 0.98), LowRankRecursive(4, 0.98), Projection()):
        surrogate, A = _bound(rule, ridge=0.1), draw(D_OUT, D_IN)
        for k in range(300):
            x = draw(8, D_IN, seed=k) * torch.logspace(0.5, -1, D_IN)
            surrogate.observe(x, x @ A.mT + 0.3 * draw(8, D_OUT, seed=-1 - k))
        strong = torch.eye(D_IN)[:4]  # the noise along the directions that the data excite most
        errors.append(float((strong @ (surrogate.A - A).mT).norm()))
    assert errors[0] <= 1.02 * errors[1]
    assert errors[1] < 1.05 * errors[2]
    assert errors[2] < 0.9 * errors[3]


@every
@pytest.mark.parametrize("bias", [False, True])
def test_a_restored_surrogate_goes_on_exactly(rule, bias):
    surrogate, A = _bound(rule, bias=bias), draw(D_OUT, D_IN)
    _feed(surrogate, A, 20, 8, noise=0.1)
    restored = _bound(rule, bias=bias)
    restored.load_state_dict(surrogate.state_dict())
    for each in (surrogate, restored):
        _feed(each, A, 5, 8, seed=1, noise=0.1)
    assert surrogate.state_dict().keys() == restored.state_dict().keys()
    assert all(torch.equal(value, restored.state_dict()[name]) for name, value in surrogate.state_dict().items())


@every
def test_a_step_that_fails_changes_nothing(rule):
    surrogate = _bound(rule, bias=True)
    _feed(surrogate, draw(D_OUT, D_IN), 3, 8)
    before = {name: value.clone() for name, value in surrogate.state_dict().items()}
    with pytest.raises(RuntimeError):
        surrogate.observe(torch.full((4, D_IN), math.nan), draw(4, D_OUT))
    assert all(torch.equal(before[name], value) for name, value in surrogate.state_dict().items())


@every
def test_bias_fits_an_affine_device(rule):
    surrogate, A, b = _bound(rule, bias=True), draw(D_OUT, D_IN), draw(D_OUT, seed=9)
    for k in range(200):
        x = draw(10, D_IN, seed=k) + 3
        surrogate.observe(x, x @ A.mT + b)
    assert _error(surrogate, A) < 1e-2
    torch.testing.assert_close(surrogate.b, b, rtol=0, atol=0.5)


def test_bias_serves_a_device_that_is_not_linear():
    device = Diffraction(16, 4)
    surrogate = Streaming(rule=Recursive(), bias=True, exact_start=False)
    surrogate.bind(device.declaration)
    theta, centre = device.theta.draw(torch.Generator().manual_seed(0)), draw(16, seed=1).abs()
    for k in range(300):
        x = centre + 0.05 * draw(16, 16, seed=k)
        surrogate.observe(x, device.transfer(x, theta).flatten(1))
    x, g = centre[None].clone().requires_grad_(), draw(1, 4, seed=2)
    (truth,) = torch.autograd.grad(device.transfer(x, theta), x, g.reshape(1, *device.out_shape))
    assert torch.cosine_similarity(surrogate.grad_x(x.detach(), g), truth).item() > 0.98


def test_memory_at_6144_inputs():
    spec = bp.devices.from_callable(lambda x, t: x, in_shape=6144, out_shape=192, theta_size=1, linear=True).declaration
    surrogate = Streaming(rule=LowRankRecursive(128))
    surrogate.bind(spec)
    surrogate.observe(draw(4, 6144), draw(4, 192))
    held = sum(value.numel() * value.element_size() for value in surrogate.buffers())
    assert held == 4 * (192 * 6144 + 192 + 128 * 6144 + 128)
    assert held < 100 * 2**20


@pytest.mark.parametrize("rule", [Recursive(), LowRankRecursive(8)], ids=str)
def test_a_layer_trains_with_it(rule):
    device = LightModulator(D_IN, D_OUT)
    layer = bp.PhysicalLayer(
        device, bp.estimators.Oracle(), Streaming(rule=rule), generator=torch.Generator().manual_seed(0)
    )
    x, theta = draw(32, D_IN).requires_grad_(), layer.theta.detach().clone()
    optimizer = torch.optim.Adam([layer.theta], lr=1e-2)
    for _ in range(30):
        optimizer.zero_grad()
        x.grad = None
        loss = (layer(x) - 1).square().mean()
        theta = layer.theta.detach().clone()
        loss.backward()
        optimizer.step()
    matrix = device.transfer(torch.eye(D_IN), theta).mT
    truth = (device.transfer(x.detach(), theta) - 1) @ matrix
    assert x.grad is not None
    assert torch.cosine_similarity(x.grad.flatten(), truth.flatten(), 0) > 0.99


def test_wrong_arguments_are_refused():
    for kept in (-0.1, 1.0, math.nan):
        with pytest.raises(ArgumentError, match=r"Recursive\(forgetting=...\)` must be at least 0 and below 1"):
            Recursive(kept)
    with pytest.raises(ArgumentError, match=r"LowRankRecursive\(rank=...\)` must be at least 1, got 0"):
        LowRankRecursive(0)
    with pytest.raises(ArgumentError, match=r"Streaming\(rule=...\)` takes a"):
        Streaming(rule=Recursive)
    with pytest.raises(IncompatibleError, match=r"LowRankRecursive\(rank=25\)` is above d_in = 24"):
        _bound(LowRankRecursive(25))


def test_an_offset_is_predicted_with_the_matrix():
    surrogate, x, A = _bound(Projection(), bias=True, ridge=1e-6), draw(200, D_IN), draw(D_OUT, D_IN, seed=1)
    for _ in range(2):
        surrogate.observe(x, x @ A.mT + 5.0)
    torch.testing.assert_close(surrogate.predict(x), x @ A.mT + 5.0, rtol=1e-2, atol=1e-2)


def test_a_ridge_below_what_is_rounded_off_and_rows_as_large_as_numbers_go():
    surrogate, A = _bound(Projection(), ridge=1e-8).float(), draw(D_OUT, D_IN, seed=1).float()
    x = 1e19 * draw(5 * D_IN, D_IN).float()
    for _ in range(3):
        surrogate.observe(x, x @ A.mT)
    assert _error(surrogate, A) < 1e-3


@pytest.mark.parametrize("make", [Projection, lambda: Recursive(0.9), lambda: LowRankRecursive(3, 0.9)])
@pytest.mark.parametrize("size", [50, 400])
def test_many_rows_that_say_the_same_are_explained_in_single_precision(make, size):
    """Their Gram matrix is singular but for what is rounded off, which grows with their number."""
    rule = make()
    for directions in (1, 3):
        x = draw(size, directions) @ draw(directions, size, seed=1)
        y = x @ draw(size, 3, seed=2)
        change, memory = rule.step(rule.memory(size), x, y, 1e-20)
        torch.testing.assert_close(x @ change.mT, y, rtol=0, atol=1e-3 * float(y.abs().max()))
        assert all(bool(value.isfinite().all()) for value in memory.values())
