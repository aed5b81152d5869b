"""The parts that use what a device declares, held to their contract; and their costs."""

from __future__ import annotations

import math

import pytest
import torch

import blackprop as bp
from blackprop.core import Purpose, metered, run
from blackprop.devices import LightModulator, Microring, MZIMesh, Noisy
from blackprop.directions import Antithetic, Coordinates, Gaussian, Orthogonal, Rademacher, Sphere
from blackprop.errors import ArgumentError, IncompatibleError
from blackprop.estimators import ByOutput, Central, ElementShift, ParameterShift, ProbeContraction, RandomDirections
from blackprop.surrogates import CalibratedResponse, Streaming
from blackprop.testing import check_estimator, check_surrogate
from support import draw


@pytest.mark.parametrize("family", [Gaussian(), Rademacher(), Sphere(), Orthogonal(), Coordinates()], ids=str)
@pytest.mark.parametrize("device", [LightModulator(5, 4), Microring(5, 4)], ids=str)
def test_credit_by_output_has_the_variance_of_one_rows_parameters(device, family):
    estimator = RandomDirections(directions=family, credit=ByOutput(4))
    claims = dict(check_estimator(estimator, device=device).claims)
    if isinstance(family, Rademacher):
        assert float(claims["relative variance, count 1"].split()[0]) == pytest.approx((5 - 1) / 1, rel=0.15)


@pytest.mark.parametrize(
    "estimator",
    [
        RandomDirections(directions=Coordinates()),
        RandomDirections(contraction=ProbeContraction(3)),
        RandomDirections(directions=Orthogonal(), difference=Central(), contraction=ProbeContraction(2)),
    ],
    ids=str,
)
def test_contracted_and_coordinate_estimates_keep_their_contract(estimator):
    check_estimator(estimator, device=LightModulator(3, 2))


@pytest.mark.parametrize("device", [LightModulator(3, 2), MZIMesh(4, 3), bp.devices.ThreeSplitterMesh(4, 3)], ids=str)
def test_a_large_shift_is_exact_on_sinusoidal_devices(device):
    check_estimator(ParameterShift(), device=device)
    check_estimator(ParameterShift(0.1, contraction=bp.estimators.BatchContraction()), device=device)


def test_a_large_shift_beats_a_small_one_under_noise():
    errors = []
    for estimator in (ParameterShift(), bp.estimators.Coordinate(1e-2)):
        device = Noisy(LightModulator(6, 4), read=0.02)
        layer = bp.PhysicalLayer(device, estimator, generator=torch.Generator().manual_seed(0))
        layer(draw(5, 6)).sum().backward()
        leaf = layer.theta.detach().requires_grad_()
        device.oracle()(draw(5, 6), leaf).sum().backward()
        errors.append(float((layer.theta.grad - leaf.grad).norm() / leaf.grad.norm()))
    assert errors[0] < 0.1 < errors[1]


@pytest.mark.parametrize("difference", [Central(), bp.estimators.Forward()], ids=str)
@pytest.mark.parametrize("device", [LightModulator(5, 4), Microring(5, 4), bp.devices.Matrix(5, 4)], ids=str)
def test_one_shift_of_all_elements_is_the_gradient(device, difference):
    check_estimator(ElementShift(difference=difference), device=device)


def test_shifts_are_refused_where_they_do_not_apply():
    with pytest.raises(IncompatibleError, match="declares a period"):
        bp.PhysicalLayer(bp.devices.Matrix(6, 4), ParameterShift())
    with pytest.raises(IncompatibleError, match="element coupling"):
        bp.PhysicalLayer(MZIMesh(6, 4), ElementShift())
    with pytest.raises(ArgumentError, match="turns"):
        ParameterShift(0.5)


def test_opposite_pairs_are_central_differences():
    device = LightModulator(6, 4)
    theta, x, g = device.theta.draw(torch.Generator().manual_seed(0)), draw(3, 6), draw(3, 4)
    y = device.transfer(x, theta)

    def found(estimator):
        procedure = estimator.grad_theta(x, theta, y, g, device.declaration, torch.Generator().manual_seed(1))
        return run(procedure, metered(device, bp.Ledger()))

    pairs = found(RandomDirections(8, 0.3, Antithetic(Gaussian())))
    central = found(RandomDirections(4, 0.3, Gaussian(), Central()))
    torch.testing.assert_close(pairs, central, rtol=1e-4, atol=1e-5)
    with pytest.raises(ArgumentError, match="even"):
        found(RandomDirections(3, 0.3, Antithetic(Gaussian())))


@pytest.mark.parametrize(
    ("shape", "rank", "energy"), [((30, 8, 5), 3, 0.0), ((30, 5, 8), 3, 0.0), ((30, 8, 8), 6, 0.05)]
)
def test_probes_are_the_best_rows_of_their_number_at_the_amplitude_of_the_data(shape, rank, energy):
    batch, d_in, d_out = shape
    x, g = draw(batch, d_in), draw(batch, d_out, seed=1)
    rows, weights = ProbeContraction(rank, energy).rows(x, g, batch)
    whole = g.mT @ x
    best = torch.linalg.svdvals(whole)[len(rows) :].norm()
    torch.testing.assert_close((weights.mT @ rows - whole).norm(), best, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(rows.norm(dim=1), x.square().sum(1).mean().sqrt().expand(len(rows)))
    if energy:
        assert len(rows) < rank or float(best / whole.norm()) ** 2 > energy
    else:
        assert len(rows) == rank


def test_probes_cost_k_rows_a_setting_and_hold_under_noise():
    """Read noise of 2 % hurts the published contraction, whose rows are about 1/B of the data, and not the probes."""
    cosines = {}
    for name, contraction in (("batch", bp.estimators.BatchContraction()), ("probes", ProbeContraction(10))):
        layer = bp.PhysicalLayer(
            Noisy(LightModulator(64, 10), read=0.02),
            bp.estimators.Coordinate(0.3, contraction=contraction),
            generator=torch.Generator().manual_seed(0),
        )
        target = torch.randint(0, 10, (128,), generator=torch.Generator().manual_seed(1))
        torch.nn.functional.cross_entropy(layer(draw(128, 64)), target).backward()
        leaf = layer.theta.detach().requires_grad_()
        y = layer.device.oracle()(draw(128, 64), leaf)
        torch.nn.functional.cross_entropy(y, target).backward()
        cosines[name] = float(torch.cosine_similarity(layer.theta.grad, leaf.grad, 0))
        assert layer.ledger.rows[Purpose.PARAMETER] <= 2 * 640 * 10
    assert cosines["probes"] > 0.95
    assert cosines["batch"] < 0.8


def test_credit_is_refused_where_nothing_is_declared():
    with pytest.raises(IncompatibleError, match="row or element coupling"):
        bp.PhysicalLayer(MZIMesh(6, 4), RandomDirections(credit=ByOutput(4)))
    with pytest.raises(IncompatibleError, match="for 3 outputs"):
        bp.PhysicalLayer(LightModulator(6, 4), RandomDirections(credit=ByOutput(3)))


@pytest.mark.parametrize("device", [None, LightModulator(16, 12), MZIMesh(16, 12)], ids=str)
def test_streaming_keeps_its_contract(device):
    check_surrogate(Streaming, device=device, batch=8)


@pytest.mark.parametrize("device", [LightModulator(16, 12), Microring(16, 12), bp.devices.Matrix(16, 12)], ids=str)
def test_calibration_keeps_its_contract(device):
    check_surrogate(lambda: CalibratedResponse(16), device=device, tolerance=0.01)


def _fed(surrogate, device, batches, noise=0.0, rows=8):
    surrogate.bind(device.declaration)
    theta = device.theta.draw(torch.Generator().manual_seed(0))
    for seed in range(batches):
        x = draw(rows, device.in_shape[0], seed=seed)
        y = device.transfer(x, theta)
        surrogate.observe(x, y + noise * y.std() * draw(*y.shape, seed=seed + 1000))
    matrix = device.transfer(torch.eye(device.in_shape[0]), theta).mT
    return float((surrogate.A - matrix).norm() / matrix.norm())


@pytest.mark.parametrize("rows", [1, 8, 24, 100])
def test_streaming_learns_the_matrix_from_rows_alone(rows):
    """Whether a batch has fewer rows than the device has inputs, or more."""
    error = _fed(Streaming(exact_start=False), LightModulator(24, 12), batches=400 if rows < 24 else 30, rows=rows)
    assert error < 0.05


def test_streaming_averages_noise_by_its_ridge():
    errors = [_fed(Streaming(r, exact_start=False), LightModulator(24, 12), 300, noise=0.2) for r in (1e-3, 1.0)]
    assert errors[1] < 0.5 * errors[0]


def test_streaming_fits_a_nonlinear_device_where_the_data_are():
    surrogate = Streaming(bias=True, exact_start=False)
    device = bp.devices.from_callable(lambda x, t: torch.tanh(x * t + 1), in_shape=6, out_shape=6, theta_size=6)
    surrogate.bind(device.declaration)
    theta = torch.ones(6)
    for seed in range(200):
        x = 0.1 * draw(16, 6, seed=seed)
        surrogate.observe(x, torch.tanh(x * theta + 1))
    torch.testing.assert_close(surrogate.A, torch.eye(6) * (1 - math.tanh(1) ** 2), atol=0.06, rtol=0)
    with pytest.raises(IncompatibleError, match="bias=True"):
        bp.PhysicalLayer(device, RandomDirections(), Streaming())


def test_a_plan_tells_its_price_and_is_what_a_layer_uses():
    device = Microring(12, 8)
    plan = bp.plan(device, batch_size=16)
    layer = bp.PhysicalLayer(device, generator=torch.Generator().manual_seed(0))
    assert layer.reason == plan.reason
    for _ in range(5):
        layer.theta.grad = None
        layer(draw(16, 12)).square().sum().backward()
        with torch.no_grad():
            layer.theta -= 1e-4
    assert layer.ledger.rows == plan.price.after(5).rows
    assert plan.price.start.programmings == {Purpose.CALIBRATE: 16}
    assert layer.ledger.programmings[Purpose.CALIBRATE] == 16


@pytest.mark.parametrize(
    ("device", "words"),
    [
        (LightModulator(12, 8), "element coupling"),
        (MZIMesh(12, 8), "power taps"),
        (bp.devices.Monarch(12, 8), "no coupling declared, declared linear"),
        (bp.devices.Diffraction(9, 4), "not declared linear"),
    ],
    ids=str,
)
def test_the_plan_follows_the_declaration_and_trains(device, words):
    """By at least half of what the oracle gains, where the device alone is trained."""

    def gain(*method):
        torch.manual_seed(0)
        layer = bp.PhysicalLayer(device, *method, generator=torch.Generator().manual_seed(0))
        model = torch.nn.Sequential(layer, torch.nn.Linear(device.out_shape[0], 3))
        optimizer = torch.optim.Adam(bp.param_groups(model, lr=0.0, device_lr=3e-2))
        x = draw(32, device.in_shape[0]).abs()
        target = torch.randint(0, 3, (32,), generator=torch.Generator().manual_seed(1))
        losses = []
        for _ in range(60):
            optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(model(x), target)
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
        return losses[0] - losses[-1], repr(layer)

    planned, shown = gain()
    possible, _ = gain(*bp.presets.oracle())
    assert words in shown
    assert possible > 0
    assert planned > possible / 2


def test_probes_survive_gradients_that_are_small_and_alike():
    """Singular values close together, at a scale whose squares float32 hardly holds."""
    for seed in range(20):
        x, g = draw(128, 96, seed=seed).sign(), 1e-5 * draw(128, 64, seed=seed + 100)
        rows, weights = ProbeContraction(12).rows(x, g, 128)
        assert bool(rows.isfinite().all())
        assert bool(weights.isfinite().all())
