"""A model inside a black-box solver: the rollout as a device, and its gradient as if the solver were Euler's."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import blackprop as bp
from blackprop.core import Purpose
from blackprop.core._flattened import Flattened
from blackprop.devices import Rollout
from blackprop.devices._rollout import Tendency
from blackprop.errors import ArgumentError, IncompatibleError, ReadingError
from blackprop.estimators import EulerGradient
from blackprop.surrogates import Euler
from support import draw

BENCHMARKS = Path(__file__).parents[1] / "benchmarks" / "field"


@pytest.fixture
def lorenz(monkeypatch):
    """The benchmark as the command line imports it."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import lorenz

    yield lorenz
    sys.modules.pop("lorenz")


def network(seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3))


def runge_kutta(h: float):
    """Of a damped, turning flow with a quadratic term."""
    A = torch.tensor([[-0.5, 2.0, 0.0], [-2.0, -0.3, 1.0], [0.5, 0.0, -0.4]])

    def known(u: Tensor) -> Tensor:
        return u @ A.to(u).mT + 0.3 * u.roll(1, -1) * u

    def step(u: Tensor, missing: Tendency) -> Tensor:
        a = known(u) + missing(u)
        b = known(v := u + h / 2 * a) + missing(v)
        c = known(v := u + h / 2 * b) + missing(v)
        d = known(v := u + h * c) + missing(v)
        return u + h / 6 * (a + 2 * b + 2 * c + d)

    return step


def rollout(h: float, steps: int, model: nn.Module | None = None) -> Rollout:
    return Rollout(runge_kutta(h), model or network(), state=3, steps=steps, differentiable=True)


def gradients(h: float, steps: int, estimator: bp.estimators.Estimator, surrogate=None) -> tuple[Tensor, Tensor]:
    """Of a loss of the whole trajectory in float64, for θ and for the first state."""
    device = rollout(h, steps)
    layer = bp.PhysicalLayer(device, estimator, surrogate or Euler(), generator=torch.Generator().manual_seed(0))
    layer.double()
    x = draw(6, 3).double().requires_grad_()
    # The cotangents do not depend on the step, so that the order of the error is that of the gradient.
    (layer(x) * draw(6, 1, 3, seed=1).double()).sum().backward()
    return layer.theta.grad, x.grad


def slope(errors: list[float], steps: list[float]) -> float:
    return float(np.polyfit(np.log(steps), np.log(errors), 1)[0])


STEPS = [0.02, 0.01, 0.005, 0.0025]


@pytest.mark.parametrize("members", [None, 4, 7])
@pytest.mark.parametrize("steps", [1, 5])
def test_the_error_of_so_many_steps_is_of_second_order(members, steps):
    errors, sizes = [], []
    for h in STEPS:
        truth, _ = gradients(h, steps, bp.estimators.Oracle())
        found, _ = gradients(h, steps, EulerGradient(network(), h, members, spread=1e-6))
        errors.append(float((found - truth).norm()))
        sizes.append(float(truth.norm()))
    assert slope(errors, STEPS) == pytest.approx(2, rel=0.1)
    assert slope(sizes, STEPS) == pytest.approx(1, rel=0.1)


def test_over_a_given_time_the_flow_must_be_known():
    """Static, the error stays; by an ensemble it falls with the step."""
    found = {}
    for members in (None, 4):
        errors = []
        for h in (0.08, 0.04, 0.02):
            truth, _ = gradients(h, steps := round(1.2 / h), bp.estimators.Oracle())
            got, _ = gradients(h, steps, EulerGradient(network(), h, members, spread=1e-6))
            errors.append(float((got - truth).norm() / truth.norm()))
        found[members] = slope(errors, [0.08, 0.04, 0.02]), errors[-1]
    assert found[4][0] == pytest.approx(1, rel=0.1)
    assert abs(found[None][0]) < 0.2
    assert found[4][1] < 0.04
    assert found[None][1] > 0.2


def test_the_gradient_for_the_first_state_is_off_by_the_flow():
    errors = []
    for h in STEPS:
        exact = gradients(h, 3, bp.estimators.Oracle(), bp.surrogates.Oracle())[1]
        errors.append(float((gradients(h, 3, EulerGradient(network(), h))[1] - exact).norm()))
    assert slope(errors, STEPS) == pytest.approx(1, rel=0.1)


def test_a_loop_of_ones_own_is_the_static_rollout():
    """Value of the solver, graph of u + h M(detach u)."""
    h, x, weights = 0.01, draw(6, 3), draw(6, 3, seed=1)
    model = network()
    layer = bp.PhysicalLayer(rollout(h, 1, model), EulerGradient(model, h), Euler())
    u = x
    for _ in range(4):
        u = layer(u)[:, 0]
    (u * weights).sum().backward()
    states, solver = x, runge_kutta(h)
    for _ in range(4):
        moved = solver(states, model).detach() - states.detach() - h * model(states.detach()).detach()
        states = states + h * model(states.detach()) + moved
    (states * weights).sum().backward()
    torch.testing.assert_close(u, states, rtol=1e-5, atol=1e-6)
    expected = torch.cat([p.grad.flatten() for p in model.parameters()])
    torch.testing.assert_close(layer.theta.grad, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("members", "steps", "asked"), [(None, 5, 0), (4, 5, 6 * 3), (6, 5, 6 * 5), (4, 1, 0)])
def test_what_it_asks_is_counted(members, steps, asked):
    model = network()
    layer = bp.PhysicalLayer(rollout(0.01, steps, model), EulerGradient(model, 0.01, members), Euler())
    layer(draw(6, 3)).sum().backward()
    assert layer.ledger.rows == {Purpose.FORWARD: 6} | ({Purpose.PARAMETER: asked} if asked else {})
    assert layer.ledger.programmings == {Purpose.FORWARD: 1}


def test_the_contracts():
    device = rollout(1e-4, 3)
    bp.testing.check_device(device)
    bp.testing.check_device(rollout(0.1, 2))
    model = network()
    for members in (None, 5):
        bp.testing.check_estimator(EulerGradient(model, 1e-4, members, 1e-6), device=device, samples=50)
    # The state hardly moves in so short a time, and not by θ: nothing can be learnt of tracking here.
    bp.testing.check_surrogate(Euler, device=device, tolerance=5e-3)


def test_any_program_is_a_solver():
    """NumPy, which autograd sees nothing of."""
    model = nn.Linear(2, 2)

    def solver(u: Tensor, missing: Tendency) -> Tensor:
        v = u.numpy()
        return torch.from_numpy((v - 0.1 * v**3 + 0.1 * missing(u).numpy()).astype(np.float32))

    device = Rollout(solver, model, state=2, steps=8)
    bp.testing.check_device(device)
    layer = bp.PhysicalLayer(device, EulerGradient(model, 0.1, members=3), Euler())
    wanted, x = nn.Linear(2, 2), draw(50, 2)
    target = device.measure([bp.Query(x, Flattened(wanted).initial(), Purpose.FORWARD)])[0]
    optimizer, losses = torch.optim.Adam([layer.theta], lr=0.03), []
    for _ in range(100):
        optimizer.zero_grad()
        loss = (layer(x) - target).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 1e-2 * losses[0]


def test_what_was_learnt_can_be_written_back():
    model = network()
    flat = Flattened(model)
    assert torch.equal(flat(draw(4, 3), flat.initial()), model(draw(4, 3)))
    nn.utils.vector_to_parameters(draw(flat.size), model.parameters())
    assert torch.equal(flat(draw(4, 3), draw(flat.size)), model(draw(4, 3)))


def test_a_solver_that_diverges_is_an_error_that_names_the_step():
    model = nn.Linear(1, 1)
    device = Rollout(lambda u, _: u**3, model, state=1, steps=9)
    layer = bp.PhysicalLayer(device, EulerGradient(model, 0.1), Euler())
    with pytest.raises(ReadingError, match=r"diverged at step 5 of 9, first in row 1 of 2"):
        layer(torch.tensor([[1.0], [2.5]]))  # 2.5 cubed five times is 10⁹⁶, four times 10³²
    assert layer.ledger.rows == {Purpose.FORWARD: 2}


@pytest.mark.parametrize(
    ("make", "error", "match"),
    [
        (lambda: Rollout(3, network(), state=3), ArgumentError, "takes a function"),
        (lambda: Rollout(runge_kutta(0.1), network(), state=3, steps=0), ArgumentError, "whole number"),
        (lambda: Rollout(runge_kutta(0.1), nn.Tanh(), state=3), ArgumentError, "no parameter"),
        (lambda: Rollout(runge_kutta(0.1), torch.tanh, state=3), ArgumentError, "Module"),
        (lambda: EulerGradient(network(), 0.0), ArgumentError, "positive and finite"),
        (lambda: EulerGradient(network(), 0.1, spread=-1.0), ArgumentError, "positive and finite"),
        (lambda: EulerGradient(network(), 0.1, 1), ArgumentError, "at least 2"),
        (lambda: EulerGradient(network(), 0.1, 3).check(rollout(0.1, 2).declaration), IncompatibleError, "at least 4"),
        (lambda: EulerGradient(nn.Linear(3, 3), 0.1).check(rollout(0.1, 2).declaration), IncompatibleError, "one"),
        (
            lambda: EulerGradient(network(), 0.1).check(bp.devices.Matrix(3, 3).declaration),
            IncompatibleError,
            "rollout",
        ),
        (lambda: Euler().check(bp.devices.Matrix(3, 3).declaration), IncompatibleError, "rollout"),
    ],
)
def test_what_cannot_be_is_refused(make, error, match):
    with pytest.raises(error, match=match):
        make()


def test_what_lorenz_63_lacks_is_learnt_inside_the_solver(lorenz, monkeypatch):
    """A short form of the benchmark: without −βz the system runs away, with what is learnt it stays."""
    monkeypatch.setattr(lorenz, "SETTLE", 500)
    layer, model, error = lorenz.train("static", samples=600, epochs=60, members=4, seed=0, steps=5)
    assert layer.ledger.rows == {Purpose.FORWARD: 60 * 600}
    start = lorenz.on_attractor(200, 101)
    reference, found = (lorenz.histograms(start, 200, each)[1] for each in (lorenz.truth, model))
    nothing = lorenz.histograms(start, 200, torch.zeros_like)[1]
    assert error < 1e-4
    assert min(lorenz.correlation(a, b) for a, b in zip(found, reference, strict=True)) > 0.8
    assert lorenz.correlation(nothing[2], reference[2]) < 0.1
