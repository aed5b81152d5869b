"""Feedback that knows nothing of the weights: what it fills in, what it asks, and that the weights come to meet it."""

from __future__ import annotations

import functools
import math
import statistics

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import blackprop as bp
from blackprop.core import Purpose
from blackprop.devices import ScatteringMedium
from blackprop.errors import ArgumentError, BudgetExhausted, IncompatibleError, ShapeError
from blackprop.experiments import Digits
from blackprop.learning_rules import DirectFeedback, random_feedback
from blackprop.surrogates import RandomFeedback
from support import Opaque, draw


def network(seed: int = 0, hidden: int = 32) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(64, hidden), nn.Tanh(), nn.Linear(hidden, hidden), nn.Tanh(), nn.Linear(hidden, 10))


def batch(rows: int = 16, d: int = 64) -> tuple[Tensor, Tensor]:
    return draw(rows, d, seed=1), torch.arange(rows) % 10


def gradients(model: nn.Module) -> list[Tensor]:
    return [p.grad.clone() for p in model.parameters() if p.grad is not None]


def angle(a: Tensor, b: Tensor) -> float:
    return math.degrees(math.acos(float(F.cosine_similarity(a.flatten(), b.flatten(), 0))))


def test_feedback_by_the_weights_is_backpropagation():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 24), nn.BatchNorm1d(24), nn.Tanh(), nn.Linear(24, 10)).double()
    x, y = batch()
    rule = DirectFeedback(model, model[-1].weight.detach())
    loss = rule.backward(x.double(), y)
    found = gradients(model)
    model.zero_grad()
    true = F.cross_entropy(model(x.double()), y)
    true.backward()
    torch.testing.assert_close(loss, true.detach())
    torch.testing.assert_close(found, gradients(model), rtol=1e-12, atol=1e-14)


def test_every_hidden_layer_is_given_the_first_columns_of_one_feedback():
    model = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3), nn.Tanh(), nn.Linear(3, 4))
    (x, _), B = batch(8, 6), draw(4, 5, seed=2)
    y = torch.arange(8) % 4
    DirectFeedback(model, B).backward(x, y)
    inputs = [x]
    for layer in model:
        inputs.append(layer(inputs[-1]).detach())
    e = (inputs[-1].softmax(1) - F.one_hot(y, 4)) / len(x)
    for at, width in ((0, 5), (2, 3)):
        delta = (e @ B)[:, :width] * (1 - inputs[at + 2].square())
        torch.testing.assert_close(model[at].weight.grad, delta.mT @ inputs[at])
        torch.testing.assert_close(model[at].bias.grad, delta.sum(0))
    torch.testing.assert_close(model[4].weight.grad, e.mT @ inputs[4])


def test_the_usual_feedback_is_uniform_and_as_small_as_the_widest_layer_asks(generator):
    B = random_feedback(10, 400, generator) * 20
    assert (B.shape, float(B.abs().max()) <= 1) == ((10, 400), True)
    assert float(B.var()) == pytest.approx(1 / 3, rel=0.05)


def trained(rule: str, seed: int, epochs: int = 5) -> tuple[float, nn.Sequential, list[float]]:
    """Accuracy on digits, the network, and the angles of the first hidden layer at the start and at the end."""
    data, model, stream = Digits().data(), network(seed), torch.Generator().manual_seed(seed)
    if rule == "top":
        model[:4].requires_grad_(False)
    feedback = (
        ScatteringMedium(10, 32, linear=True, seed=seed) if rule == "optical" else random_feedback(10, 32, stream)
    )
    method, angles = DirectFeedback(model, feedback), []
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    for _ in range(epochs):
        for some in torch.randperm(len(data.x_train), generator=stream).split(64):
            x, y = data.x_train[some], data.y_train[some]
            optimizer.zero_grad()
            method.backward(x, y)
            if rule != "top":
                (true,) = torch.autograd.grad(F.cross_entropy(model(x), y), [model[0].weight])
                angles.append(angle(model[0].weight.grad, true))
            optimizer.step()
    with torch.no_grad():
        right = model(data.x_test).argmax(1) == data.y_test
    return float(right.double().mean()), model, angles


@functools.cache
def top_alone() -> list[float]:
    return [trained("top", seed)[0] for seed in range(3)]


@pytest.mark.parametrize("rule", ["matrix", "optical"])
def test_it_comes_to_agree_with_backpropagation_and_beats_the_top_layer_alone(rule):
    found = [trained(rule, seed) for seed in range(3)]
    alone = top_alone()
    start = statistics.fmean(angles[0] for *_, angles in found)
    end = [statistics.fmean(angles[-20:]) for *_, angles in found]
    assert start > 75  # nothing in common at first
    assert max(end) < 65
    assert statistics.fmean(accuracy for accuracy, *_ in found) > statistics.fmean(alone) + 0.02


def test_optical_feedback_is_counted_and_is_what_the_medium_does(generator):
    medium = Opaque(ScatteringMedium(10, 40, linear=True))
    model, (x, y) = network(), batch()
    rule = DirectFeedback(model, medium)
    for _ in range(3):
        model.zero_grad()
        rule.backward(x, y)
    assert rule.ledger.rows == {Purpose.SURROGATE: 48}
    assert rule.ledger.total_programmings == 1
    assert float(medium.rows[-1].square().mean()) == pytest.approx(1)
    found = gradients(model)
    model.zero_grad()
    DirectFeedback(model, medium.inner.medium.real / math.sqrt(40)).backward(x, y)
    torch.testing.assert_close(found, gradients(model), rtol=1e-4, atol=1e-7)
    with pytest.raises(BudgetExhausted):
        DirectFeedback(model, medium, budget=bp.Budget(rows=10)).backward(x, y)


def test_a_physical_layer_is_asked_for_its_parameters_and_never_for_its_input():
    device = Opaque(bp.devices.Matrix(16, 12))
    layer = bp.PhysicalLayer(device, bp.estimators.RandomDirections(3), bp.surrogates.ProjectorSplitting(rank=4))
    model = nn.Sequential(nn.Linear(64, 16), nn.Tanh(), layer, nn.Tanh(), nn.Linear(12, 10))
    x, y = batch()
    DirectFeedback(model, random_feedback(10, 16, torch.Generator())).backward(x, y)
    assert bool(layer.theta.grad.abs().sum() > 0)
    assert bool(model[0].weight.grad.abs().sum() > 0)
    assert (layer.ledger.rows[Purpose.FORWARD], layer.ledger.rows[Purpose.SURROGATE]) == (16, 0)


def test_layers_that_are_not_trained_stay(generator):
    model, (x, y) = network(), batch()
    model[0].requires_grad_(False)
    DirectFeedback(model, random_feedback(10, 32, generator)).backward(x, y)
    assert model[0].weight.grad is None
    assert bool(model[2].weight.grad.abs().sum() > 0)


def test_what_does_not_fit_is_refused(generator):
    model, (x, y) = network(), batch()
    B = random_feedback(10, 32, generator)
    with pytest.raises(ArgumentError, match="takes a Sequential"):
        DirectFeedback(nn.Linear(3, 3), B)
    with pytest.raises(ArgumentError, match="needs a hidden layer; this model has 1"):
        DirectFeedback(nn.Sequential(nn.Linear(3, 3), nn.Tanh()), B)
    with pytest.raises(ArgumentError, match="a matrix or a Device"):
        DirectFeedback(model, B[0])
    with pytest.raises(IncompatibleError, match="must be linear"):
        DirectFeedback(model, ScatteringMedium(10, 32))
    for wrong in (B[:9], B[:, :31]):
        with pytest.raises(ShapeError, match=r"a model of 10 outputs and 32 units"):
            DirectFeedback(model, wrong).backward(x, y)
    assert not gradients(model)
    with pytest.raises(ArgumentError, match="at least 1"):
        random_feedback(0, 3, generator)


def test_a_surrogate_of_random_feedback_keeps_the_contract_and_asks_nothing():
    report = bp.testing.check_surrogate(RandomFeedback, device=ScatteringMedium(6, 5), tracks=False)
    assert "0 rows" in str(report)
    first, other = RandomFeedback(), RandomFeedback(1)
    for surrogate in (first, other):
        surrogate.bind(bp.devices.Matrix(6, 5).declaration)
    x, g = draw(3, 6), draw(3, 5)
    assert torch.equal(first.grad_x(x, g), g @ first.B)
    assert not torch.equal(first.B, other.B)
    with pytest.raises(ArgumentError, match="whole number"):
        RandomFeedback(0.5)  # pyright: ignore[reportArgumentType]


def test_a_trained_device_comes_to_agree_with_its_random_feedback():
    data, stream, ends = Digits().data(), torch.Generator().manual_seed(0), []
    for seed in range(3):
        torch.manual_seed(seed)
        device = bp.devices.Matrix(32, 10)
        layer = bp.PhysicalLayer(device, bp.estimators.Oracle(), RandomFeedback(seed))
        model = nn.Sequential(nn.Linear(64, 32), nn.Tanh(), layer)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        angles = []
        for _ in range(6):
            for some in torch.randperm(len(data.x_train), generator=stream).split(64):
                optimizer.zero_grad()
                F.cross_entropy(model(data.x_train[some]), data.y_train[some]).backward()
                optimizer.step()
                angles.append(angle(layer.surrogate.B, layer.theta.detach().view(10, 32)))
        ends.append(angles[-1])
        assert angles[0] > 80
    assert max(ends) < 75
