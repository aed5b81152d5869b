"""The layer in a model: what it measures and when, what it keeps, how it lives with the rest of PyTorch."""

from __future__ import annotations

import pytest
import torch
from torch.utils.checkpoint import checkpoint

import blackprop as bp
from blackprop.core import Purpose
from blackprop.core._packing import unpack
from blackprop.errors import (
    ArgumentError,
    BlackpropError,
    IncompatibleError,
    ReadingError,
    SecondDerivativeError,
    ShapeError,
    SurrogateError,
)
from support import backward, behind_a_linear, draw, make_layer, oracle_layer

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA"))]


@pytest.mark.parametrize("place", DEVICES)
def test_with_exact_parts_the_gradients_are_autograds(place):
    """Coordinate differences and an exact surrogate against plain autograd through the same function."""
    device = bp.devices.Microring(6, 4)
    estimator = bp.estimators.Coordinate(1e-4)
    layer = make_layer(device, method=(estimator, bp.surrogates.Reconstruction(4))).double().to(place)
    x = draw(2, 3, 6, dtype=torch.float64).to(place).requires_grad_()
    layer(x).pow(3).sum().backward()

    theta, z = layer.theta.detach().clone().requires_grad_(), x.detach().clone().requires_grad_()
    device.transfer(z.flatten(0, 1), theta).pow(3).sum().backward()
    torch.testing.assert_close(x.grad, z.grad, rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(layer.theta.grad, theta.grad, rtol=1e-6, atol=1e-8)


def test_a_device_whose_backward_raises_trains(opaque):
    model = behind_a_linear(make_layer(opaque, method=bp.presets.paper(rank=4, samples=50)))
    optimizer = torch.optim.Adam(bp.param_groups(model, lr=1e-2, device_lr=1e-2))
    x = draw(32, 5)
    target = x @ draw(5, 4, seed=5) / 2
    losses = []
    for _ in range(100):
        optimizer.zero_grad()
        loss = (model(x) - target).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.1 * losses[0]


def test_the_published_costs_of_a_step():
    """B forward, M·min(B, d_out) (+ d_out where contracted) parameter, d_in to start and 2(r + M) a step surrogate."""
    M, r, steps = 3, 2, 5
    for batch, parameter_rows in ((3, M * 3), (4, M * 4), (7, (M + 1) * 4)):
        layer = make_layer(method=bp.presets.paper(rank=r, samples=M))
        optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
        for _ in range(steps):
            optimizer.zero_grad()
            backward(layer, draw(batch, 6).requires_grad_())
            optimizer.step()
        assert layer.ledger.rows == {
            Purpose.FORWARD: steps * batch,
            Purpose.PARAMETER: steps * parameter_rows,
            Purpose.SURROGATE: 6 + (steps - 1) * 2 * (r + M),
        }
        assert layer.ledger.programmings == {
            Purpose.FORWARD: steps,
            Purpose.PARAMETER: steps * M,
            Purpose.SURROGATE: steps - 1,
        }


def test_a_frozen_theta_is_never_asked_about():
    layer = make_layer()
    layer.theta.requires_grad_(False)
    backward(layer, draw(3, 6).requires_grad_())
    assert layer.ledger.rows[Purpose.PARAMETER] == 0
    assert layer.ledger.rows[Purpose.SURROGATE] == 6


def test_a_first_layer_asks_no_surrogate_query():
    layer = make_layer()
    backward(layer, draw(3, 6))
    assert layer.ledger.rows[Purpose.SURROGATE] == 0
    assert layer.ledger.rows[Purpose.PARAMETER] == 9


def test_a_zero_gradient_costs_no_query():
    layer = make_layer()
    x = draw(3, 6).requires_grad_()
    (0 * layer(x)).sum().backward()
    assert layer.ledger.rows[Purpose.PARAMETER] == 0
    assert not x.grad.any()


def test_accumulation_tracks_the_surrogate_once_a_change_of_theta():
    layer = make_layer()
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    for _ in range(3):
        for part in range(4):
            backward(layer, draw(3, 6, seed=part).requires_grad_())
        optimizer.step()
        optimizer.zero_grad()
    assert layer.ledger.rows[Purpose.SURROGATE] == 6 + 2 * 10
    assert layer.ledger.rows[Purpose.FORWARD] == 36


def _state(layer):
    """All that a layer saves, and apart from it what it counts."""
    state = layer.state_dict()
    packed = {name: unpack(state.pop(name)) for name in list(state) if name.endswith("_extra_state")}
    counts = packed["_extra_state"].pop("ledger")
    return {
        **state,
        **{f"{name}.{key}": repr(value) for name, part in packed.items() for key, value in part.items()},
    }, counts


def test_eval_changes_nothing_and_is_booked_as_evaluation():
    """Nor does a backward pass: neither what the estimator draws nor what the diagnosis counts."""
    layer = make_layer()
    x = draw(3, 6).requires_grad_()
    backward(layer, x)
    layer.eval()
    before, counted = _state(layer)
    backward(layer, x)
    after, counts = _state(layer)
    assert counts["rows"].pop("evaluate") == 3
    assert counts["rows"].pop("parameter") == 2 * counted["rows"].pop("parameter")
    assert counts["rows"] == counted["rows"]
    assert after.keys() == before.keys()
    for name, value in before.items():
        assert torch.equal(after[name], value) if isinstance(value, torch.Tensor) else after[name] == value


def test_a_gradient_through_an_unknown_setting_is_refused():
    layer = make_layer().eval()
    x = draw(3, 6).requires_grad_()
    with pytest.raises(SurrogateError, match="call `train"):
        backward(layer, x)
    layer.train()
    backward(layer, x)
    layer.eval()
    backward(layer, x)  # the surrogate knows this θ now


@pytest.mark.parametrize("shape", [(6,), (0, 6), (3, 6), (2, 3, 6), (2, 1, 3, 6)])
def test_any_leading_dimensions(shape):
    layer = oracle_layer(bias=True)
    x = draw(*shape).requires_grad_()
    y = layer(x)
    assert y.shape == (*shape[:-1], 4)
    y.sum().backward()
    assert x.grad.shape == shape
    flat = layer(x.reshape(-1, 6))
    torch.testing.assert_close(y.reshape(-1, 4), flat)


def test_rows_may_have_several_dimensions():
    device = bp.devices.from_callable(
        lambda x, theta: x.mean(-1) * theta, in_shape=(3, 5), out_shape=3, theta_size=3, linear=True
    )
    layer = bp.PhysicalLayer(device, bp.estimators.Coordinate(1e-3), bp.surrogates.Reconstruction(3))
    x = draw(2, 4, 3, 5).requires_grad_()
    with torch.no_grad():
        layer.theta.fill_(2.0)
    y = layer(x)
    y.sum().backward()
    torch.testing.assert_close(y, 2 * x.detach().mean(-1))
    torch.testing.assert_close(x.grad, torch.full_like(x, 2 / 5))
    torch.testing.assert_close(layer.theta.grad, x.detach().mean(-1).sum((0, 1)), rtol=1e-3, atol=1e-3)


def test_gain_and_bias_are_trained_digitally():
    layer = oracle_layer(bias=True)
    with torch.no_grad():
        layer.gain.fill_(3.0)
        layer.bias.fill_(0.5)
    x = draw(3, 6)
    y = layer(x)
    plain = layer.device.transfer(x, layer.theta.detach())
    torch.testing.assert_close(y, 3 * plain + 0.5)
    y.sum().backward()
    torch.testing.assert_close(layer.gain.grad, plain.sum())
    torch.testing.assert_close(layer.bias.grad, torch.full((4,), 3.0))


def test_autocast_leaves_the_device_in_float32():
    seen = []

    def fn(x, theta):
        seen.append(x.dtype)
        return x * theta

    device = bp.devices.from_callable(fn, in_shape=6, out_shape=6, theta_size=6, linear=True)
    model = torch.nn.Sequential(torch.nn.Linear(5, 6), bp.PhysicalLayer(device), torch.nn.Linear(6, 2))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = model(draw(4, 5)).float().square().sum()
    loss.backward()
    assert set(seen) == {torch.float32}
    assert model[0].weight.grad.dtype == torch.float32


def test_a_layer_cast_to_half_says_so():
    with pytest.raises(ArgumentError, match="autocast"):
        make_layer().half()(draw(2, 6).half())


def test_checkpointing_measures_twice_and_counts_it():
    plain, thrifty = oracle_layer(), oracle_layer()
    x = draw(3, 6).requires_grad_()
    z = x.detach().clone().requires_grad_()
    plain(x).square().sum().backward()
    checkpoint(thrifty, z, use_reentrant=False).square().sum().backward()
    torch.testing.assert_close(z.grad, x.grad)
    assert plain.ledger.rows[Purpose.FORWARD] == 3
    assert thrifty.ledger.rows[Purpose.FORWARD] == 6


def test_a_compiled_model_gives_the_same_result():
    model = torch.nn.Sequential(torch.nn.Linear(5, 6), torch.nn.ReLU(), oracle_layer(), torch.nn.ReLU())
    x = draw(4, 5)
    expected = model(x)
    expected.sum().backward()
    grads = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    compiled = torch.compile(model, backend="aot_eager")
    y = compiled(x)
    y.sum().backward()
    torch.testing.assert_close(y, expected)
    for name, p in model.named_parameters():
        torch.testing.assert_close(p.grad, grads[name])


@pytest.mark.parametrize("method", [bp.presets.oracle, lambda: bp.presets.paper(rank=2, samples=2)])
def test_a_second_derivative_is_refused(method):
    x = draw(3, 6).requires_grad_()
    y = make_layer(method=method())(x)
    with pytest.raises(SecondDerivativeError, match="create_graph"):
        torch.autograd.grad(y.sum(), x, create_graph=True)


def test_theta_is_kept_within_limits_and_the_device_never_sees_another():
    seen = []

    def fn(x, theta):
        seen.append(theta)
        return x * theta

    device = bp.devices.from_callable(fn, in_shape=4, out_shape=4, theta_size=4, low=0.0, high=1.0, linear=True)
    layer = bp.PhysicalLayer(device, bp.estimators.RandomDirections(8, 0.01), bp.surrogates.Reconstruction(4))
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.5)
    for step in range(10):
        optimizer.zero_grad()
        (layer(draw(8, 4, seed=step).requires_grad_()) * draw(8, 4, seed=step)).sum().mul(-1).backward()
        optimizer.step()
    layer.eval()
    beyond = layer.theta.detach().clone()
    layer(draw(2, 4))
    assert bool((beyond > 1).any())  # pushed out by the last step: projected when sent, left alone in eval()
    torch.testing.assert_close(layer.theta.detach(), beyond, rtol=0, atol=0)
    layer.train()(draw(2, 4))
    assert bool(((layer.theta >= 0) & (layer.theta <= 1)).all())
    assert all(bool(((t >= 0) & (t <= 1)).all()) for t in seen)


def test_nothing_is_drawn_from_the_global_generator():
    layer = make_layer(method=bp.presets.paper(rank=2, samples=3))
    model = behind_a_linear(layer)
    state = torch.get_rng_state()
    backward(model, draw(4, 5))
    backward(model, draw(4, 5))
    assert torch.equal(torch.get_rng_state(), state)


def test_a_seed_gives_the_same_layer_and_layers_differ():
    torch.manual_seed(3)
    one, two = (bp.PhysicalLayer(bp.devices.LightModulator(6, 4)) for _ in range(2))
    torch.manual_seed(3)
    again = bp.PhysicalLayer(bp.devices.LightModulator(6, 4))
    assert torch.equal(one.theta, again.theta)
    assert not torch.equal(one.theta, two.theta)
    many = [bp.PhysicalLayer(bp.devices.LightModulator(3, 2)) for _ in range(100)]
    assert len({tuple(layer.theta.tolist()) for layer in many}) == 100


def test_a_device_that_fails_leaves_the_weights(opaque):
    layer = make_layer(opaque)
    opaque.inner.transfer = lambda x, theta: torch.full((len(x), 4), torch.nan)
    with pytest.raises(ReadingError, match="not finite, first in row 0 of 3"):
        layer(draw(3, 6))


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda d: bp.PhysicalLayer(bp.devices.LightModulator), ArgumentError, "give an object"),
        (lambda d: bp.PhysicalLayer(d, bp.estimators.RandomDirections), ArgumentError, "takes a Estimator"),
        (lambda d: bp.PhysicalLayer(d, None, bp.surrogates.ProjectorSplitting(5)), IncompatibleError, r"min\(d_in"),
        (lambda d: bp.estimators.RandomDirections(0), ArgumentError, "at least 1, got 0"),
        (lambda d: bp.estimators.RandomDirections(step=0), ArgumentError, "positive"),
        (lambda d: bp.estimators.RandomDirections(step=-1e-4), ArgumentError, "positive"),
        (lambda d: bp.estimators.RandomDirections(fraction=0), ArgumentError, "fraction"),
        (lambda d: bp.estimators.Coordinate(step=float("nan")), ArgumentError, "positive"),
        (lambda d: bp.surrogates.ProjectorSplitting(0), ArgumentError, "rank"),
        (lambda d: bp.surrogates.ProjectorSplitting(2, 0), ArgumentError, "samples"),
        (lambda d: bp.surrogates.Reconstruction(2, 0), ArgumentError, "every"),
        (lambda d: bp.devices.LightModulator(0, 3), BlackpropError, "at least 1|positive"),
    ],
)
def test_wrong_arguments_are_refused_at_construction(make, error, words):
    with pytest.raises(error, match=words):
        make(bp.devices.LightModulator(6, 4))


def test_linear_parts_are_refused_on_a_nonlinear_device(opaque):
    opaque.linear = False
    with pytest.raises(IncompatibleError, match="needs a linear device"):
        bp.PhysicalLayer(opaque, bp.estimators.RandomDirections(contraction=bp.estimators.BatchContraction()))
    with pytest.raises(IncompatibleError, match="needs a linear device"):
        bp.PhysicalLayer(opaque, bp.estimators.RandomDirections(), bp.surrogates.ProjectorSplitting(2))
    with pytest.raises(IncompatibleError, match="needs a simulator"):
        bp.PhysicalLayer(opaque, *bp.presets.oracle())


def test_one_surrogate_serves_one_layer():
    surrogate = bp.surrogates.ProjectorSplitting(2)
    bp.PhysicalLayer(bp.devices.LightModulator(6, 4), None, surrogate)
    with pytest.raises(IncompatibleError, match="one surrogate a layer"):
        bp.PhysicalLayer(bp.devices.LightModulator(6, 4), None, surrogate)


def test_a_wrong_input_width_is_named():
    with pytest.raises(ShapeError, match=r"\(6,\), got an input of \(3, 7\)"):
        make_layer()(draw(3, 7))
