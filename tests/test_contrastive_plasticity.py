"""Contrastive-signal-dependent plasticity: its modulator, what it writes into `.grad`, and what it learns."""

from __future__ import annotations

import functools
import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import blackprop as bp
from blackprop.core import Purpose
from blackprop.devices import Crossbar
from blackprop.errors import ArgumentError, IncompatibleError, ShapeError
from blackprop.learning_rules import ContrastivePlasticity, Spiking, modulator, synapses
from support import draw


def test_the_modulator_is_the_gradient_of_the_loss():
    z = draw(7, 12, dtype=torch.float64).abs().requires_grad_()
    positive = torch.tensor([1.0, 0, 1, 0, 1, 0, 0], dtype=torch.float64)
    loss, d = modulator(z, positive, 10.0)
    lively = (z.square().sum(-1) - 10).sigmoid()
    assert torch.allclose(loss, -(positive * lively.log() + (1 - positive) * (1 - lively).log()).mean())
    (truth,) = torch.autograd.grad(loss, z)
    assert torch.allclose(d, truth, atol=1e-12)


def rates(rows: int, size: int) -> Tensor:
    return torch.rand(rows, size, generator=torch.Generator().manual_seed(5))


def by_hand(x: Tensor, y: Tensor, weights: list[Tensor], how: Spiking, decay: float, seed: int) -> list[Tensor]:
    """The sums of the published updates over the steps of one showing, three labels."""
    generator = torch.Generator().manual_seed(seed)
    torch.randint(2**62, (), generator=generator)  # the seed of its evaluations
    wrong = (y + torch.randint(1, 3, y.shape, generator=generator)) % 3
    context = torch.eye(3)[torch.cat((y, wrong))]
    positive = torch.cat((torch.ones(len(y)), torch.zeros(len(y))))
    total = [torch.zeros_like(w) for w in weights]
    v, s, z = ([torch.zeros(2 * len(y), len(w)) for w in weights] for _ in range(3))
    for _ in range(how.steps):
        shown = (torch.rand(x.shape, generator=generator) < x).float()
        below = [torch.cat((shown, shown)), *s[:-1]]
        for n, w in enumerate(weights):
            pre = torch.cat((below[n], context), 1)
            neurons = torch.ones(len(w), len(w)) - torch.eye(len(w))
            drive = how.resistance * pre @ w.T - how.inhibition * s[n] @ neurons
            v[n] = v[n] + 3 / 100 * (drive - v[n])
            s[n] = (v[n] > how.threshold).float()
            v[n] = v[n] * (1 - s[n])
            z[n] = torch.maximum(s[n], z[n] * (1 - 3 / 13))
            d = 2 * z[n] * (torch.sigmoid((z[n] ** 2).sum(1) - how.goodness) - positive)[:, None] / len(pre)
            total[n] += d.T @ pre + decay * s[n].T @ (1 - pre) / len(pre)
    return total


@pytest.mark.parametrize("decay", [0.0, 0.3])
def test_the_gradient_is_pre_spikes_times_the_modulator(decay):
    how, generator = Spiking(steps=12, resistance=0.5, goodness=2.0), torch.Generator().manual_seed(3)
    layers = [synapses(8, 3, 20, generator), synapses(20, 3, 15, generator)]
    weights = [layer.weight.detach().clone() for layer in layers]
    x, y = rates(6, 8), torch.tensor([0, 1, 2, 0, 1, 2])
    rule = ContrastivePlasticity(layers, 3, generator=torch.Generator().manual_seed(4), spiking=how, decay=decay)
    rule.backward(x, y)
    for layer, expected in zip(layers, by_hand(x, y, weights, how, decay, 4), strict=True):
        assert float(expected.abs().max()) > 0
        assert torch.allclose(layer.weight.grad, expected, atol=1e-6)


def test_a_crossbar_learns_by_its_estimator_and_is_asked_two_rows_a_step():
    how, start = Spiking(steps=10, resistance=1.5), torch.Generator().manual_seed(3)
    device = Crossbar(11, 20)
    layer = bp.PhysicalLayer(device, *bp.presets.oracle(), generator=start)
    digital = nn.Linear(11, 20, bias=False)
    with torch.no_grad():
        digital.weight.copy_(layer.theta.view(20, 11) / math.sqrt(11))
    x, y = rates(6, 8), torch.tensor([0, 1, 2, 0, 1, 2])
    for each in (layer, digital):
        ContrastivePlasticity([each], 3, generator=torch.Generator().manual_seed(4), spiking=how).backward(x, y)
    assert float(digital.weight.grad.abs().max()) > 0
    assert torch.allclose(layer.theta.grad.view(20, 11), digital.weight.grad / math.sqrt(11), atol=1e-6)
    assert dict(layer.ledger.rows) == {Purpose.FORWARD: 2 * 6 * 10}


@functools.cache
def trained(shuffled: bool) -> tuple[ContrastivePlasticity, Tensor, Tensor]:
    pytest.importorskip("sklearn")
    from blackprop.experiments import Digits

    data, generator = Digits().data(), torch.Generator().manual_seed(0)
    x, y = data.x_train[:1000], data.y_train[:1000]
    if shuffled:
        y = y[torch.randperm(len(y), generator=generator)]
    how = Spiking(steps=25, resistance=0.2)
    rule = ContrastivePlasticity([synapses(64, 10, 100, generator)], 10, generator=generator, spiking=how)
    optimizer = torch.optim.Adam(rule.parameters(), 4e-3)
    for _ in range(4):
        for some in torch.randperm(len(x), generator=generator).split(64):
            for _ in rule.visit(x[some], y[some]):
                optimizer.step()
                optimizer.zero_grad()
    assert float(rule.layers[0].weight.detach().abs().max()) <= 1
    return rule, data.x_test, data.y_test


def test_goodness_tells_true_labels_from_wrong_ones():
    rule, x, y = trained(False)
    wrong = (y + torch.randint(1, 10, y.shape, generator=torch.Generator().manual_seed(1))) % 10
    assert float((rule(x, y) > rule(x, wrong)).double().mean()) > 0.9
    assert float((rule.predict(x) == y).double().mean()) > 0.75


def test_shuffled_labels_destroy_learning():
    rule, x, y = trained(True)
    assert float((rule.predict(x) == y).double().mean()) < 0.25


def test_evaluation_repeats_and_leaves_training_alone():
    left, asked = (
        ContrastivePlasticity([synapses(8, 3, 20, g)], 3, generator=g, spiking=Spiking(resistance=0.5))
        for g in (torch.Generator().manual_seed(0) for _ in range(2))
    )
    x, y = rates(6, 8), torch.tensor([0, 1, 2, 0, 1, 2])
    assert torch.equal(asked(x, y), asked(x, y))
    goodness = torch.stack([asked(x, torch.full((6,), label)) for label in range(3)], -1)
    assert torch.equal(asked.predict(x), goodness.argmax(-1))
    assert torch.equal(left.backward(x, y), asked.backward(x, y))


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda g: ContrastivePlasticity([], 3, generator=g), ArgumentError, "takes Linear and PhysicalLayer"),
        (lambda g: ContrastivePlasticity([nn.ReLU()], 3, generator=g), ArgumentError, "takes Linear"),
        (lambda g: ContrastivePlasticity([synapses(5, 3, 4, g)], 1, generator=g), ArgumentError, "classes"),
        (lambda g: ContrastivePlasticity([synapses(5, 3, 4, g)], 8, generator=g), IncompatibleError, "8 labels do not"),
        (
            lambda g: ContrastivePlasticity([synapses(5, 3, 4, g), synapses(5, 3, 4, g)], 3, generator=g),
            IncompatibleError,
            "4 neurons below it",
        ),
        (lambda g: ContrastivePlasticity([synapses(5, 3, 4, g)], 3, generator=g, decay=-1.0), ArgumentError, "decay"),
        (lambda g: Spiking(step=20.0), ArgumentError, "time constant"),
        (lambda g: Spiking(trace=0.0), ArgumentError, "trace"),
        (lambda g: Spiking(steps=0), ArgumentError, "steps"),
    ],
)
def test_refuses(make, error, message):
    with pytest.raises(error, match=message):
        make(torch.Generator())


@pytest.mark.parametrize("labels", [torch.tensor([0, 3]), torch.tensor([0.0, 1.0]), torch.tensor([1])])
def test_refuses_labels_that_do_not_fit(labels):
    generator = torch.Generator().manual_seed(0)
    rule = ContrastivePlasticity([synapses(5, 3, 4, generator)], 3, generator=generator)
    with pytest.raises(ShapeError):
        rule.backward(rates(2, 5), labels)


def test_no_global_random_number_is_drawn():
    before, generator = torch.get_rng_state(), torch.Generator().manual_seed(0)
    rule = ContrastivePlasticity([synapses(5, 3, 4, generator)], 3, generator=generator)
    rule.backward(rates(2, 5), torch.tensor([0, 1]))
    assert torch.equal(torch.get_rng_state(), before)
    assert F.one_hot(rule.predict(rates(2, 5)), 3).shape == (2, 3)
