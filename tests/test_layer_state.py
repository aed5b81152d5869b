"""The layer saved, copied, shared and interrupted; devices that behave as instruments do."""

from __future__ import annotations

import copy
import io

import pytest
import torch

import blackprop as bp
from blackprop.core import Purpose
from blackprop.errors import (
    CheckpointError,
)
from support import Opaque, backward, behind_a_linear, draw, make_layer, oracle_layer

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA"))]


def _train(layer: bp.PhysicalLayer, model: torch.nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> None:
    for step in range(steps):
        optimizer.zero_grad()
        backward(model, draw(4, 5, seed=step))
        optimizer.step()


def test_a_state_dict_continues_bit_for_bit():
    """Saved and loaded into a new layer: weights, surrogate, ledger, random stream, noise and drift go on alike."""

    def build():
        device = bp.devices.Noisy(bp.devices.Drifting(bp.devices.LightModulator(6, 4), per_programming=0.01), read=0.1)
        layer = make_layer(device, budget=bp.Budget(rows=10_000))
        model = behind_a_linear(layer)
        return layer, model, torch.optim.SGD(model.parameters(), lr=0.1)

    layer, model, optimizer = build()
    _train(layer, model, optimizer, 3)
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    _train(layer, model, optimizer, 3)

    other, twin, twin_optimizer = build()
    _train(other, twin, twin_optimizer, 1)  # whatever it did before is forgotten
    file.seek(0)
    twin.load_state_dict(torch.load(file, weights_only=True))
    other.device._programmed = None  # nothing is known of what the new process finds on the bench
    _train(other, twin, twin_optimizer, 3)
    for name, value in model.state_dict().items():
        if isinstance(value, torch.Tensor):
            torch.testing.assert_close(twin.state_dict()[name], value, rtol=0, atol=0)
    assert other.ledger.rows == layer.ledger.rows
    assert other.budget.spent["rows"] == layer.budget.spent["rows"]


def test_a_foreign_state_is_refused():
    layer = make_layer()
    state = layer.state_dict()
    state["_extra_state"] = {"hello": 1}
    with pytest.raises(CheckpointError, match="not the state of a layer"):
        layer.load_state_dict(state)
    theta, generator = layer.theta.detach().clone(), layer.generator.get_state()
    noisy = make_layer(bp.devices.Noisy(bp.devices.LightModulator(6, 4), read=0.1)).state_dict()
    other = make_layer(bp.devices.LightModulator(6, 5)).state_dict()
    for foreign, words in (
        (state, "not the state"),
        (other, r"another device.* out_shape \[5\], here \[4\]"),
        (noisy, "keeps no state"),
    ):
        with pytest.raises(CheckpointError, match=words):
            layer.load_state_dict(foreign)
        assert torch.equal(layer.generator.get_state(), generator)
        assert torch.equal(layer.theta, theta)
    layer.load_state_dict(layer.state_dict())
    assert torch.equal(layer.theta, theta)


def test_a_copy_learns_alone_and_speaks_to_the_same_device():
    layer = make_layer()
    backward(layer, draw(3, 6).requires_grad_())
    twin = copy.deepcopy(layer)
    assert twin.device is layer.device
    asked = layer.ledger.total_rows
    assert bp.ledger(torch.nn.ModuleList([layer, twin])).total_rows == asked  # none is counted twice
    with torch.no_grad():
        twin.theta.add_(0.1)
    backward(twin, draw(3, 6).requires_grad_())
    assert layer.ledger.total_rows == asked
    assert twin.ledger.total_rows > 0
    assert not torch.equal(twin.theta_tracked, layer.theta_tracked)
    torch.testing.assert_close(layer.theta_tracked, layer.theta.detach())


def test_two_layers_share_one_device():
    device = bp.devices.LightModulator(6, 6)
    one, two = oracle_layer(device), oracle_layer(device)
    with torch.no_grad():
        two.theta.add_(1.0)
    model = torch.nn.Sequential(one, two)
    x = draw(3, 6).requires_grad_()
    y = model(x)
    expected = device.transfer(device.transfer(x.detach(), one.theta.detach()), two.theta.detach())
    torch.testing.assert_close(y, expected)
    y.sum().backward()
    assert bp.ledger(model).programmings[Purpose.FORWARD] == 2
    assert one.theta.grad.any()


def test_several_layers_train_together():
    model = torch.nn.Sequential(make_layer(), torch.nn.ReLU(), make_layer(bp.devices.Microring(4, 3)))
    backward(model, draw(8, 6))
    assert all(layer.theta.grad.any() for layer in (model[0], model[2]))
    assert model[0].ledger.rows[Purpose.SURROGATE] == 0
    assert model[2].ledger.rows[Purpose.SURROGATE] == 4


def test_an_acquisition_buffer_that_is_filled_again_does_no_harm():
    class Buffered(Opaque):
        buffer = torch.zeros(99, 4)

        def read(self, x, /):
            return torch.mul(self.inner.read(x), 1.0, out=self.buffer[: len(x)])

    plain = bp.devices.LightModulator(6, 4)
    grads = []
    for device in (plain, Buffered(plain)):
        layer = make_layer(device, method=(bp.estimators.Coordinate(1e-2), bp.surrogates.Reconstruction(4)))
        x = draw(5, 6).requires_grad_()
        layer(x).square().sum().backward()
        grads.append((x.grad, layer.theta.grad))
    torch.testing.assert_close(grads[1], grads[0])


def test_a_gradient_that_overflowed_asks_nothing_and_stays_visible():
    layer = make_layer()
    x = draw(3, 6).requires_grad_()
    (layer(x) * torch.inf).sum().backward()
    assert layer.ledger.rows[Purpose.PARAMETER] == 0
    assert bool(layer.theta.grad.isnan().all())
    assert bool(x.grad.isnan().all())


def test_backward_within_autocast_keeps_the_device_in_float32():
    grads = []
    for enabled in (False, True):
        layer = make_layer(
            bp.devices.Matrix(6, 4), method=(bp.estimators.Coordinate(1e-1), bp.surrogates.Reconstruction(4))
        )
        x = draw(5, 6).requires_grad_()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            layer(x).square().sum().backward()
        grads.append((x.grad, layer.theta.grad))
    torch.testing.assert_close(grads[1], grads[0], rtol=1e-5, atol=1e-5)


def test_a_device_programmed_by_hand_is_programmed_again(opaque):
    layer = oracle_layer(opaque.inner).eval()
    y = layer(draw(2, 6))
    opaque.inner.program(torch.zeros(24))
    torch.testing.assert_close(layer(draw(2, 6)), y)
    plain = bp.PhysicalLayer(opaque).eval()
    y = plain(draw(2, 6))
    opaque.program(torch.zeros(24))
    opaque.forget()
    torch.testing.assert_close(plain(draw(2, 6)), y)


def test_initial_values_are_copied():
    mine = torch.zeros(24, dtype=torch.float64)
    spec = bp.ThetaSpec(24, lambda g: mine)
    layers = [make_layer(Opaque(bp.devices.LightModulator(6, 4))) for _ in range(2)]
    thetas = [spec.draw(torch.Generator()) for _ in layers]
    thetas[0].add_(1)
    assert thetas[1].dtype == torch.float32
    assert not thetas[1].any()
    assert not mine.any()


@pytest.mark.parametrize(
    "wrap", [bp.devices.Noisy, bp.devices.Quantised, bp.devices.Drifting], ids=lambda w: w.__name__
)
def test_a_whole_model_can_be_pickled(wrap):
    layer = make_layer(wrap(bp.devices.LightModulator(6, 4)))
    file = io.BytesIO()
    torch.save(layer, file)
    file.seek(0)
    torch.testing.assert_close(torch.load(file, weights_only=False)(draw(2, 6)), layer(draw(2, 6)))


def test_a_copy_spends_from_the_same_budget():
    layer = make_layer(budget=bp.Budget(rows=10))
    copy.deepcopy(layer)(draw(6, 6))
    with pytest.raises(bp.errors.BudgetExhausted):
        layer(draw(6, 6))
