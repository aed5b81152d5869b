"""In-memory computing as an ODE: the exact solution, its limits, and the grid in time."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

import blackprop as bp
from blackprop.core import metered, run
from blackprop.devices import InMemoryODE
from blackprop.errors import ArgumentError
from blackprop.surrogates import Twin
from blackprop.testing import check_device
from blackprop.twins import InMemoryTwin
from support import draw


def inputs(rows: int, d_in: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(rows, d_in, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize(
    "device", [InMemoryODE(5, 4), InMemoryODE(5, 4, reversal=(2.0, -math.inf), spread=0.1)], ids=("both", "one")
)
def test_keeps_the_contract(device):
    check_device(device)


def test_far_reversal_potentials_leave_the_sum_of_products():
    x, theta = inputs(7, 12), draw(36, dtype=torch.float64)
    plain = x @ theta.view(3, 12).mT
    assert torch.allclose(InMemoryODE(12, 3, reversal=(math.inf, -math.inf)).potential(x, theta), plain)
    far = [InMemoryODE(12, 3, reversal=(e, -e)).potential(x, theta) for e in (1e3, 1e4)]
    errors = [float((v - plain).norm()) for v in far]
    assert errors[0] / errors[1] == pytest.approx(10, rel=0.05)


def by_runge_kutta(device: InMemoryODE, x: torch.Tensor, theta: torch.Tensor, steps: int = 64) -> torch.Tensor:
    """v(1), integrated from spike to spike."""
    w = theta.view(*device.out_shape, -1)
    leaks = torch.where(w > 0, w / device.reversal[0], w / device.reversal[1])
    out = torch.zeros(len(x), *device.out_shape, dtype=torch.float64)
    for number, row in enumerate(x):
        v = out[number]
        for start, end in itertools.pairwise([*(1 - row).sort().values.tolist(), 1.0]):
            on = (1 - row <= start).double()
            g, f, h = w @ on, leaks @ on, (end - start) / steps
            for _ in range(steps):
                k1 = g - f * v
                k2 = g - f * (v + h / 2 * k1)
                k3 = g - f * (v + h / 2 * k2)
                k4 = g - f * (v + h * k3)
                v = v + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
        out[number] = v
    return out


@pytest.mark.parametrize("reversal", [(0.5, -0.3), (4.0, -4.0), (2.0, -math.inf)])
def test_the_closed_form_solves_the_equation(reversal):
    device = InMemoryODE(6, 3, reversal=reversal)
    x, theta = inputs(4, 6), 2 * draw(18, dtype=torch.float64)
    v = device.potential(x, theta)
    assert torch.allclose(v, by_runge_kutta(device, x, theta), atol=1e-8)
    assert torch.equal(device.transfer(x, theta), v.clamp(0, 1))
    assert bool(((v > reversal[1]) & (v < reversal[0])).all())  # the reversal potentials are never passed


def test_inputs_outside_are_clipped_and_weights_of_zero_leak_nothing():
    device, theta = InMemoryODE(6, 3), draw(18, dtype=torch.float64)
    x = 3 * draw(5, 6, seed=1, dtype=torch.float64)
    assert torch.equal(device.potential(x, theta), device.potential(x.clamp(0, 1), theta))
    assert float(device.potential(x, torch.zeros(18, dtype=torch.float64)).abs().max()) == 0


def test_both_forms_are_differentiable_in_both_arguments():
    device = InMemoryODE(4, 2, reversal=(1.0, -1.0), spread=0.1)
    x, theta = inputs(3, 4).requires_grad_(), draw(8, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(device.potential, (x, theta))
    assert torch.autograd.gradcheck(lambda a, b: device.on_grid(a, b, 3, 0.4), (x, theta))


def slope(sizes: list[float], errors: list[float]) -> float:
    """Of the error over the size, doubly logarithmic."""
    a, b = (torch.tensor(each, dtype=torch.float64).log() for each in (sizes, errors))
    a = a - a.mean()
    return float((a * b).sum() / a.square().sum())


def grid_error(points: int, reversal: float) -> float:
    """The root mean square over rows and offsets."""
    device = InMemoryODE(24, 8, reversal=(reversal, -reversal))
    x, theta = inputs(64, 24), draw(192, dtype=torch.float64) / math.sqrt(24)
    exact = device.potential(x, theta)
    off = [device.on_grid(x, theta, points, u) - exact for u in (0.1, 0.3, 0.5, 0.7, 0.9)]
    return float(torch.stack(off).square().mean().sqrt())


def test_the_grid_errs_as_one_over_its_points_squared_and_the_reversal_potential():
    points, reversals = [8, 16, 32, 64], [10.0, 20.0, 40.0, 80.0]
    assert slope(points, [grid_error(m, 4.0) for m in points]) == pytest.approx(-2, rel=0.1)
    assert slope(reversals, [grid_error(4, e) for e in reversals]) == pytest.approx(-1, rel=0.1)
    assert grid_error(4, math.inf) < 1e-12


def test_a_twin_on_three_points_finds_the_weights_and_its_gradients_serve():
    device = InMemoryODE(8, 6, spread=0.2, seed=1)
    generator = torch.Generator().manual_seed(0)
    model = InMemoryTwin(device, generator=torch.Generator().manual_seed(2))
    twin = Twin(model, settings=64, rows=32, fit_steps=600, lr=0.02)
    twin.bind(device.declaration)
    theta = device.theta.draw(generator)
    with torch.no_grad():
        run(twin.start(theta, generator), metered(device, bp.Ledger()))
    true = device._factors - 1
    assert float((model.slope - true).norm() / true.norm()) < 0.25
    x, g = inputs(64, 8, seed=3).float().requires_grad_(), draw(64, 6, seed=4)
    leaf = theta.clone().requires_grad_()
    truth = torch.autograd.grad(device.oracle()(x, leaf), (x, leaf), g)
    found = twin.grad_x(x, g), twin.grad_theta(x, g)
    for a, b in zip(found, truth, strict=True):
        assert float(torch.cosine_similarity(a.flatten(), b.flatten(), 0)) > 0.97


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: InMemoryODE(3, 2, reversal=(1.0, 1.0)), "reversal"),
        (lambda: InMemoryODE(3, 2, reversal=(math.nan, -1.0)), "reversal"),
        (lambda: InMemoryODE(3, 2, spread=-1.0), "spread"),
        (lambda: InMemoryODE(3, 2).on_grid(torch.zeros(1, 3), torch.zeros(6), 0), "at least 1 point"),
        (lambda: InMemoryTwin(bp.devices.Matrix(3, 2), generator=torch.Generator()), "takes an InMemoryODE"),
        (lambda: InMemoryTwin(InMemoryODE(3, 2), points=0, generator=torch.Generator()), "points"),
    ],
)
def test_refuses(make, message):
    with pytest.raises(ArgumentError, match=message):
        make()
