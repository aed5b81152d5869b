"""Equilibrium propagation of digital models: its error falls as declared, and its steps backpropagation's."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from blackprop.errors import ArgumentError, ReadingError
from blackprop.learning_rules import (
    Energy,
    EquilibriumPropagation,
    Layered,
    Relaxation,
    cross_entropy,
    hard_sigmoid,
    squared_error,
    steep_sigmoid,
)
from blackprop.learning_rules._equilibrium_propagation import States
from support import draw

LABELS = torch.tensor([0, 2, 1, 2, 0])


def seeded(model: nn.Module, scale: float, seed: int = 0) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in model.parameters():
            value.copy_(scale * torch.randn(value.shape, generator=generator) / math.sqrt(value[0].numel()))
    return model.double()


def dense(scale: float = 0.7, readout: bool = False) -> Layered:
    if readout:
        return seeded(Layered([nn.Linear(6, 8), nn.Linear(8, 5)], nn.Linear(5, 3)), scale)  # pyright: ignore
    return seeded(Layered([nn.Linear(6, 8), nn.Linear(8, 5), nn.Linear(5, 3)]), scale)  # pyright: ignore


def convolutional() -> Layered:
    first = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.MaxPool2d(2))
    second = nn.Sequential(nn.Conv2d(4, 3, 3, padding=1), nn.MaxPool2d(2))
    return seeded(Layered([first, second, nn.Sequential(nn.Flatten(), nn.Linear(12, 3))]), 0.7)  # pyright: ignore


class Spring(Energy):
    """`E = ½ k |s − W x|² + ¼ |s|⁴`: an energy of no layers."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(0.1 * draw(3, 6, dtype=torch.float64).abs())
        self.stiffness = nn.Parameter(torch.tensor(1.5, dtype=torch.float64))

    def rest(self, drive: Tensor) -> States:
        return [drive.new_full((len(drive), 3), 0.5)]

    def energy(self, drive: Tensor, states: States) -> Tensor:
        (s,) = states
        return 0.5 * self.stiffness * (s - drive @ self.weight.mT).square().sum(1) + 0.25 * s.pow(4).sum(1)


def gradient(rule: EquilibriumPropagation, x: Tensor, target: Tensor) -> Tensor:
    rule.model.zero_grad()
    rule.backward(x, target)
    return gathered(rule.model)


def gathered(model: nn.Module) -> Tensor:
    """All gradients, those of a parameter that no step has reached yet being zero."""
    return torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in model.parameters()])


def steps_taken(rule: EquilibriumPropagation, x: Tensor, states: States, count: int) -> States:
    """`count` free steps that autograd can follow: `s ← σ(s − ε ∂E/∂s)`."""
    for _ in range(count):
        inputs = [s if s.requires_grad else s.requires_grad_() for s in states]
        energy = rule.model.energy(rule.model.drive(x), inputs).sum()
        slopes = torch.autograd.grad(energy, inputs, create_graph=True)
        relax = rule.relaxation
        states = [relax.activation(s - relax.rate * slope) for s, slope in zip(inputs, slopes, strict=True)]
    return states


def backpropagated(rule: EquilibriumPropagation, x: Tensor, target: Tensor, count: int) -> Tensor:
    """Backpropagation through the last `count` steps of the free phase, by autograd."""
    rule.model.zero_grad()
    states = steps_taken(rule, x, [s.clone() for s in rule.settle(x)], count)
    rule.loss(rule.model.predict(states), target).mean().backward()
    return gathered(rule.model)


def long(activation=hard_sigmoid, rate: float = 1.0, nudged: int = 40) -> Relaxation:
    return Relaxation(free=20 + nudged, nudged=nudged, rate=rate, activation=activation, tolerance=1e-7)


CASES = {
    "smooth": lambda: (dense(), draw(5, 6, dtype=torch.float64), squared_error, long(steep_sigmoid)),
    "cross-entropy": lambda: (dense(0.7, True), draw(5, 6, dtype=torch.float64), cross_entropy, long(steep_sigmoid)),
    "convolutional": lambda: (
        convolutional(),
        draw(5, 1, 8, 8, dtype=torch.float64),
        squared_error,
        long(steep_sigmoid, nudged=80),
    ),
    "energy": lambda: (Spring(), draw(5, 6, dtype=torch.float64).abs(), squared_error, long(rate=0.6)),
}


@pytest.mark.parametrize("centred", [True, False])
@pytest.mark.parametrize("case", CASES)
def test_the_error_falls_with_beta_as_declared_against_finite_differences(case, centred):
    model, x, loss, relaxation = CASES[case]()
    rule = EquilibriumPropagation(model, 1.0, centred, loss, relaxation)
    truth = backpropagated(rule, x, LABELS, relaxation.nudged)
    check_by_differences(rule, x, truth)
    betas = [0.04, 0.02, 0.01]
    errors = []
    for beta in betas:
        found = gradient(EquilibriumPropagation(model, beta, centred, loss, relaxation), x, LABELS)
        errors.append(float((found - truth).norm() / truth.norm()))
    for (beta, error), (half, smaller) in pairwise(zip(betas, errors, strict=True)):
        slope = math.log(error / smaller) / math.log(beta / half)
        assert slope == pytest.approx(rule.bias_order, rel=0.1)
    assert errors[-1] < 0.05


def check_by_differences(rule: EquilibriumPropagation, x: Tensor, gradient: Tensor, h: float = 1e-4) -> None:
    """A few numbers of a gradient against central differences of the loss of the free states."""

    @torch.no_grad()
    def loss() -> float:
        return float(rule.loss(rule.model.predict(rule.settle(x)), LABELS).mean())

    done = 0
    for parameter in rule.model.parameters():
        flat = parameter.data.view(-1)
        index = len(flat) // 2
        kept = float(flat[index])
        flat[index] = kept + h
        above = loss()
        flat[index] = kept - h
        slope = (above - loss()) / (2 * h)
        flat[index] = kept
        assert float(gradient[done + index]) == pytest.approx(slope, rel=1e-5, abs=1e-7)
        done += len(flat)


@pytest.mark.parametrize("case", ["dense", "energy", "convolutional", "smooth"])
def test_each_nudged_step_is_a_step_of_truncated_backpropagation_through_time(case):
    model, x, loss, relaxation = CASES[case if case in CASES else "smooth"]()
    if case == "dense":
        relaxation = long(hard_sigmoid)
        x = 2 * x
    seen = []
    for count in range(1, 9):
        few = Relaxation(relaxation.free, count, relaxation.rate, relaxation.activation, relaxation.tolerance)
        rule = EquilibriumPropagation(model, 1e-5, True, loss, few)
        found, wanted = gradient(rule, x, LABELS), backpropagated(rule, x, LABELS, count)
        assert float((found - wanted).norm() / wanted.norm()) < 1e-6, count
        seen.append(wanted)
    assert float((seen[-1] - seen[0]).norm() / seen[0].norm()) > 0.01  # and the steps do differ


def test_a_relaxation_that_does_not_converge_says_so():
    model = dense(8.0)
    rule = EquilibriumPropagation(model, relaxation=Relaxation(free=20, tolerance=1e-6))
    x = draw(5, 6, dtype=torch.float64)
    with pytest.raises(ReadingError, match=r"did not converge: after 20 steps a state still moves by [\d.e-]+ a step"):
        rule.backward(x, LABELS)
    assert all(p.grad is None for p in model.parameters())


def test_gradients_add_up_as_those_of_autograd_do():
    model, x, loss, relaxation = CASES["smooth"]()
    rule = EquilibriumPropagation(model, 0.1, True, loss, relaxation)
    once = gradient(rule, x, LABELS)
    rule.backward(x, LABELS)
    torch.testing.assert_close(gathered(model), 2 * once)
    parts = [gradient(rule, x[i : i + 1], LABELS[i : i + 1]) for i in range(5)]
    torch.testing.assert_close(torch.stack(parts).mean(0), once)


def test_a_network_learns():
    torch.manual_seed(0)
    model = Layered([nn.Linear(2, 32), nn.Linear(32, 2)])
    rule = EquilibriumPropagation(model, 0.2, relaxation=Relaxation(30, 8))
    x = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    labels = torch.tensor([0, 1, 1, 0])
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(120):
        optimizer.zero_grad()
        rule.backward(x, labels)
        optimizer.step()
    assert rule.predict(x).argmax(1).tolist() == labels.tolist()
    assert float(squared_error(rule.predict(x), labels).mean()) < 0.05


def test_bad_arguments_are_refused():
    for make in (
        lambda: Layered([]),
        lambda: Relaxation(free=0),
        lambda: Relaxation(nudged=0),
        lambda: Relaxation(rate=0.0),
        lambda: Relaxation(tolerance=0.0),
        lambda: Relaxation(rate=0.5, activation=steep_sigmoid),
        lambda: EquilibriumPropagation(dense(), beta=0.0),
        lambda: EquilibriumPropagation(nn.Linear(2, 2)),  # pyright: ignore[reportArgumentType]
    ):
        with pytest.raises(ArgumentError):
            make()
