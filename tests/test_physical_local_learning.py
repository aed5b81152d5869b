"""Physical local learning: what it asks of a device, what it sends through none, and what it learns."""

from __future__ import annotations

import functools
import itertools
import statistics

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import blackprop as bp
from blackprop.core import Purpose
from blackprop.errors import ArgumentError, IncompatibleError, ShapeError
from blackprop.learning_rules import PhysicalLocalLearning
from support import Opaque, draw


def make(devices: list[bp.Device], classes: int = 3, width: int = 5, seed: int = 0) -> PhysicalLocalLearning:
    generator = torch.Generator().manual_seed(seed)
    layers = [bp.PhysicalLayer(device, generator=generator) for device in devices]
    return PhysicalLocalLearning(layers, classes, width, generator=generator)


def two(wrap=lambda device: device) -> list[bp.Device]:
    return [wrap(bp.devices.Microring(6, 4)), wrap(bp.devices.LightModulator(7, 3))]


LABELS = torch.tensor([0, 1, 2, 1])


@pytest.mark.parametrize("inner", [1, 4])
def test_a_visit_costs_two_rows_a_layer_and_sample_whatever_the_inner_steps(inner):
    rule = make(two())
    losses = list(rule.visit(draw(4, 6), LABELS, inner))
    assert len(losses) == 2 * inner
    for layer in rule.stack:
        assert dict(layer.ledger.rows) == {Purpose.FORWARD: 2 * 4}
        assert layer.ledger.total_programmings == 1  # the first
    list(rule.visit(draw(4, 6), LABELS, inner))
    assert [layer.ledger.total_programmings for layer in rule.stack] == [1, 1]
    rule.eval().predict(draw(4, 6))
    assert [layer.ledger.rows[Purpose.EVALUATE] for layer in rule.stack] == [3 * 4, 3 * 4]


def filled(rule: PhysicalLocalLearning) -> list[Tensor]:
    rule.backward(draw(4, 6), LABELS)
    return [value.grad for value in rule.digital.parameters()]


def test_a_device_that_refuses_to_be_differentiated_changes_nothing():
    plain, opaque = make(two()), make(two(Opaque))
    for a, b in zip(filled(plain), filled(opaque), strict=True):
        assert torch.equal(a, b)
    assert all(layer.theta.grad is None and layer.gain.grad is None for layer in plain.stack)


def test_the_gradient_is_that_of_each_layer_alone_with_or_without_a_graph_through_the_device():
    rule, same = make(two()), make(two())
    x = draw(4, 6)
    found = filled(rule)
    shift = torch.randint(1, 3, (4,), generator=same._generator)
    wrong = (LABELS + shift) % 3
    assert not bool((wrong == LABELS).any())
    h, loss = torch.cat((same.written(x, LABELS), same.written(x, wrong))), torch.zeros(())
    for number, layer in enumerate(same.stack):
        reading = layer.device.oracle()(h, layer.theta)  # with a graph, into θ
        h = same.digital[number](torch.cat((reading, h), -1)).abs()
        goodness = F.cosine_similarity(h, same.get_buffer(f"p_{number}"))
        loss = loss + torch.log(1 + torch.exp(-4 * (goodness[:4] - goodness[4:]))).mean()
        h = (h / h.square().mean(-1, keepdim=True).sqrt()).detach()
    loss.backward()
    for a, value in zip(found, same.digital.parameters(), strict=True):
        assert torch.allclose(a, value.grad, atol=1e-6)


def test_labels_are_written_over_the_first_entries_and_goodness_is_compared():
    rule = make(two())
    x = draw(4, 6)
    written = rule.written(x, LABELS)
    assert torch.equal(written[:, :3], torch.eye(3)[LABELS])
    assert torch.equal(written[:, 3:], x[:, 3:])
    rule.eval()
    goodness = torch.stack([rule(x, torch.full((4,), label)) for label in range(3)], -1)
    assert torch.equal(rule.predict(x), goodness.argmax(-1))
    assert bool((goodness.abs() <= 2).all())  # two cosines


def test_inner_steps_descend_on_one_reading():
    rule = make(two())
    optimizer = torch.optim.SGD(rule.digital.parameters(), 0.01)
    losses = []
    for loss in rule.visit(draw(4, 6), LABELS, inner=10):
        losses.append(float(loss))
        optimizer.step()
        optimizer.zero_grad()
    for layer in (losses[:10], losses[10:]):
        assert all(after < before for before, after in itertools.pairwise(layer))


@functools.cache
def digits() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    pytest.importorskip("sklearn")
    from blackprop.experiments import Digits

    data = Digits().data()
    return F.pad(data.x_train, (10, 0)), data.y_train, F.pad(data.x_test, (10, 0)), data.y_test


def accuracy(seed: int, trained: slice) -> float:
    """Of two layers of 24, of which those in `trained` learn."""
    x, y, x_test, y_test = digits()
    rule = make([bp.devices.LightModulator(74, 24), bp.devices.LightModulator(24, 24)], 10, 24, seed)
    optimizer = torch.optim.Adam(rule.digital[trained].parameters(), 5e-3)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(4):
        for some in torch.randperm(len(x), generator=generator).split(64):
            for _ in rule.visit(x[some], y[some]):
                optimizer.step()
                rule.zero_grad()
    return float((rule.eval().predict(x_test) == y_test).double().mean())


def random_features(seed: int) -> float:
    """The same two layers as they are drawn, read out by the best linear fit to the labels."""
    x, y, x_test, y_test = digits()
    rule = make([bp.devices.LightModulator(74, 24), bp.devices.LightModulator(24, 24)], 10, 24, seed).eval()

    def passed(h: Tensor) -> Tensor:
        for number in range(2):
            h = rule._passed_on(rule._answer(number, rule._read(number, h)))
        return F.pad(h, (0, 1), value=1.0)

    weights = torch.linalg.lstsq(passed(x), F.one_hot(y, 10).float()).solution
    return float(((passed(x_test) @ weights).argmax(-1) == y_test).double().mean())


def test_it_beats_random_features():
    learnt = statistics.mean(accuracy(seed, slice(None)) for seed in range(2))
    last = statistics.mean(accuracy(seed, slice(1, None)) for seed in range(2))
    drawn = statistics.mean(random_features(seed) for seed in range(4))
    assert learnt > 0.85
    assert learnt > last + 0.1
    assert learnt > drawn + 0.1


@pytest.mark.parametrize(
    ("classes", "labels", "error", "message"),
    [
        (7, LABELS, IncompatibleError, "7 labels do not fit"),
        (1, LABELS, IncompatibleError, "1 labels do not fit"),
        (3, torch.tensor([0, 1, 3, 1]), ShapeError, "from 0 to 2"),
        (3, torch.tensor([0, -1, 1, 1]), ShapeError, "from 0 to 2"),
        (3, torch.ones(4), ShapeError, "whole numbers"),
        (3, torch.tensor([0, 1]), ShapeError, "as many labels"),
    ],
)
def test_refuses_labels_that_do_not_fit(classes, labels, error, message):
    with pytest.raises(error, match=message):
        make(two(), classes).backward(draw(4, 6), labels)


@pytest.mark.parametrize(
    ("make_rule", "error", "message"),
    [
        (lambda g: PhysicalLocalLearning([], 3, 5, generator=g), ArgumentError, "at least one PhysicalLayer"),
        (lambda g: PhysicalLocalLearning([nn.Linear(6, 4)], 3, 5, generator=g), ArgumentError, "PhysicalLayer"),
        (lambda g: make(two(), width=0), ArgumentError, "width"),
        (
            lambda g: PhysicalLocalLearning([bp.PhysicalLayer(two()[0])], 3, 5, generator=g, sharpness=0.0),
            ArgumentError,
            "sharpness",
        ),
        (lambda g: list(make(two()).visit(draw(4, 6), LABELS, 0)), ArgumentError, "inner"),
    ],
)
def test_refuses(make_rule, error, message):
    with pytest.raises(error, match=message):
        make_rule(torch.Generator())


def test_no_global_random_number_is_drawn():
    before = torch.get_rng_state()
    filled(make(two()))
    assert torch.equal(torch.get_rng_state(), before)
