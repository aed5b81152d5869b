"""A layer used several times before one backward pass: recurrent, siamese, adversarial, with shared θ."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

import blackprop as bp
from simulators import SIMULATORS, tag
from support import draw, make_layer

EXACT = [
    (bp.estimators.Coordinate(1e-3), bp.surrogates.Reconstruction(4)),
    (bp.estimators.Coordinate(1e-3), bp.surrogates.Streaming(ridge=1e-6)),
    (bp.estimators.ElementShift(), bp.surrogates.Reconstruction(4)),
    bp.presets.oracle(),
]
SQUARE = [
    bp.devices.Matrix(4, 4),
    bp.devices.LightModulator(4, 4),
    bp.devices.Microring(4, 4),
    bp.devices.LowRank(4, 4, rank=2),
    bp.devices.MZIMesh(4, 4),
    bp.devices.ThreeSplitterMesh(4, 4),
    bp.devices.Monarch(4, 4),
    bp.devices.ScatteringMedium(4, 4),
    bp.devices.Diffraction(4, 4, double=True),
]


def recurrent(layer: torch.nn.Module, x: Tensor) -> Tensor:
    h = x[0]
    for row in x:
        h = torch.tanh(layer(h)) + row
    return h.square().sum()


def siamese(layer: torch.nn.Module, x: Tensor) -> Tensor:
    return (layer(x[0]) - 2 * layer(x[1]).tanh()).square().sum()


def adversarial(layer: torch.nn.Module, x: Tensor) -> Tensor:
    """A critic of real rows, which need no gradient, and of generated ones."""
    return layer(x[0].detach()).square().sum() - layer(x[1]).tanh().sum()


USES = [recurrent, siamese, adversarial]


def _leaf(seed: int = 0) -> Tensor:
    return draw(3, 5, 4, seed=seed).requires_grad_()


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("method", EXACT, ids=lambda m: f"{type(m[0]).__name__}-{type(m[1]).__name__}")
def test_with_exact_parts_the_gradients_are_the_oracles_sum_over_uses(use, method):
    """At the second step too, when θ has moved and the surrogate must follow it."""
    device = bp.devices.LightModulator(4, 4)
    layer = make_layer(device, method=copy.deepcopy(method)).double()
    oracle = make_layer(device, method=bp.presets.oracle()).double()
    for step in range(2):
        grads = []
        for each in (layer, oracle):
            each.zero_grad()
            x = draw(3, 5, 4, seed=step, dtype=torch.float64).requires_grad_()
            use(each, x).backward()
            grads.append((x.grad, each.theta.grad, each.gain.grad))
        torch.testing.assert_close(grads[0], grads[1], rtol=2e-3, atol=2e-5)
        with torch.no_grad():
            for each in (layer, oracle):
                each.theta += 0.1 * draw(16, seed=step).double()


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("device", [*SQUARE, *[d for d in SIMULATORS if d.in_shape == d.out_shape]], ids=tag)
def test_every_default_serves_any_number_of_uses(use, device):
    """Two steps by an optimizer; the gradient of θ points along the oracle's, as far as that of a single use does."""
    layer = bp.PhysicalLayer(device, generator=torch.Generator().manual_seed(1))
    optimizer = torch.optim.SGD(layer.parameters(), lr=1e-3)
    x = torch.randn(3, 5, *device.in_shape, generator=torch.Generator().manual_seed(0)).requires_grad_()
    for _ in range(2):
        optimizer.zero_grad()
        use(layer, x).backward()
        optimizer.step()
    assert bool(x.grad.isfinite().all())
    assert bool(layer.theta.grad.any())


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize(
    "method",
    [
        lambda: (bp.estimators.RandomDirections(20_000, 1e-2), bp.surrogates.Reconstruction(4)),
        lambda: (bp.estimators.DirectionalMemory(count=16, step=1e-2), bp.surrogates.Streaming(ridge=1e-6)),
        lambda: tuple(bp.presets.paper(rank=4, samples=20_000, step=1e-2)),
    ],
    ids=["random", "memory", "paper"],
)
def test_estimates_by_perturbation_sum_over_uses(use, method):
    device = bp.devices.LightModulator(4, 4)
    layer, oracle = make_layer(device, method=method()), make_layer(device, method=bp.presets.oracle())
    grads = []
    for each in (layer, oracle):
        x = _leaf()
        use(each, x).backward()
        grads.append((x.grad.flatten(), each.theta.grad))
    for ours, true in zip(*grads, strict=True):
        assert float(torch.cosine_similarity(ours, true, dim=0)) > 0.98
        assert float(ours.norm() / true.norm()) == pytest.approx(1, abs=0.1)


def test_a_local_fit_answers_each_use_at_its_own_rows():
    """A device that is not linear, used in two places: each gradient is that of the fit to the rows of its own use."""
    device = bp.devices.from_callable(
        lambda x, theta: torch.sin(x @ theta.view(4, 4).T), in_shape=4, out_shape=4, theta_size=16
    )
    weights = draw(16, seed=3)

    def gradients(offsets: list[float]) -> list[Tensor]:
        layer = make_layer(
            device, method=(bp.estimators.Coordinate(1e-3), bp.surrogates.Streaming(1e-4, bias=True, exact_start=False))
        )
        with torch.no_grad():
            layer.theta.copy_(weights)
        leaves = [(0.02 * draw(64, 4, seed=i) + offset).requires_grad_() for i, offset in enumerate(offsets)]
        sum(layer(x).sum() for x in leaves).backward()
        return [x.grad for x in leaves]

    both = gradients([0.0, 2.0])
    x = (0.02 * draw(64, 4, seed=0)).requires_grad_()
    torch.sin(x @ weights.view(4, 4).T).sum().backward()
    assert float((both[0] - x.grad).norm() / x.grad.norm()) < 0.1
    x = (0.02 * draw(64, 4, seed=1) + 2.0).requires_grad_()
    torch.sin(x @ weights.view(4, 4).T).sum().backward()
    assert float((both[1] - x.grad).norm() / x.grad.norm()) < 0.1


def test_two_layers_may_share_their_theta():
    """Each layer adds the gradient of its own use, for the calibrated default and for the oracle alike."""
    device = bp.devices.LightModulator(4, 4)
    grads = []
    for method in (lambda: (None, None), bp.presets.oracle):
        one, two = make_layer(device, method=method()), make_layer(device, method=method())
        two.theta = one.theta
        x = draw(6, 4).requires_grad_()
        two(one(x).tanh()).square().sum().backward()
        grads.append((x.grad, one.theta.grad))
    torch.testing.assert_close(grads[0], grads[1], rtol=2e-3, atol=1e-4)


def test_a_displacement_that_is_found_between_two_uses_breaks_no_backward_pass():
    device = bp.devices.Drifting(bp.devices.LightModulator(8, 4))
    layer = make_layer(device, method=(None, None))
    optimizer = torch.optim.SGD(layer.parameters(), lr=1e-3)
    moved = []
    for step in range(30):
        if step == 12:
            device.offset = torch.full((32,), 0.3)
            device.forget()
        optimizer.zero_grad()
        before = layer.theta.detach().clone()
        first = layer(draw(16, 8, seed=step))  # no gradient for its input: the surrogate need not follow
        second = layer(draw(16, 8, seed=100 + step).requires_grad_())
        moved.append(float((layer.theta.detach() - before).abs().max()))
        (first.square().mean() + second.square().mean()).backward()
        optimizer.step()
    assert max(moved[:12]) == 0
    assert max(moved[12:]) == pytest.approx(0.3, abs=0.1)  # found, and put back


def test_theta_may_move_between_a_forward_pass_and_its_backward_pass():
    """The gradient is that of the setting that was measured."""
    device = bp.devices.LightModulator(4, 4)
    layer = make_layer(device, method=(bp.estimators.Coordinate(1e-3), bp.surrogates.Frozen()))
    x = draw(6, 4)
    y = layer(x)
    theta = layer.theta.detach().clone().requires_grad_()
    device.transfer(x, theta).square().sum().backward()
    with torch.no_grad():
        layer.theta += 1.0
    y.square().sum().backward()
    torch.testing.assert_close(layer.theta.grad, theta.grad, rtol=1e-2, atol=1e-3)
