"""Error networks: dual adaptive training brings the gradients of a design nearer to those of the device."""

from __future__ import annotations

import pytest
import torch

import blackprop as bp
from blackprop.errors import ArgumentError, IncompatibleError, ShapeError
from blackprop.estimators import FromSurrogate
from blackprop.surrogates import Twin
from blackprop.twins import ErrorNetwork, MeshTwin
from support import draw

N = 12


def trained(twin: Twin, seed: int, steps: int = 60) -> tuple[float, float, float]:
    """Cosines of both gradients with the exact ones, over the second half, and the residual of the model at the end."""
    device, generator = _device(seed), torch.Generator().manual_seed(seed)
    layer = bp.PhysicalLayer(device, FromSurrogate(twin), twin, generator=generator)
    target = torch.randn(N, N, generator=generator) / N**0.5
    optimizer, cosines = torch.optim.Adam([layer.theta], 0.02), []
    for _ in range(steps):
        x = torch.randn(64, N, generator=generator, requires_grad=True)
        error = layer(x) - x.detach() @ target
        optimizer.zero_grad()
        error.square().mean().backward()
        theta, rows = layer.theta.detach().clone().requires_grad_(), x.detach().clone().requires_grad_()
        device.transfer(rows, theta).backward(error.detach())
        pairs = ((layer.theta.grad, theta.grad), (x.grad, rows.grad))
        cosines.append([torch.cosine_similarity(a.flatten(), b.flatten(), 0).item() for a, b in pairs])
        optimizer.step()
    x = torch.randn(64, N, generator=generator)
    y = device.transfer(x, twin.theta)
    left = float((twin.model(x, twin.theta) - y).norm() / y.norm())
    theta, rows = torch.tensor(cosines[steps // 2 :]).mean(0).tolist()
    return theta, rows, left


def _device(seed: int) -> bp.devices.ImperfectMZIMesh:
    return bp.devices.ImperfectMZIMesh(N, N, phase=0.2, splitter=0, seed=seed)


@pytest.mark.parametrize("seed", range(2))
def test_errors_learnt_from_training_batches_bring_the_gradients_nearer(seed):
    """Physics-aware training has the gradients of the design. No query is made beyond the forward pass."""
    design = bp.devices.MZIMesh(N, N)
    aware = trained(Twin(MeshTwin(design), fit_steps=0, online_steps=0), seed)
    dual = trained(Twin(ErrorNetwork(design), fit_steps=0, online_steps=8, lr=0.5, watch=None), seed)
    offsets = trained(Twin(MeshTwin(design), fit_steps=0, online_steps=4, lr=0.05, watch=None), seed)
    assert aware[1] < 0.8
    assert dual[1] > 0.95  # of the input
    assert dual[2] < 0.3 * aware[2]  # the readings of the last setting
    assert offsets[0] > 0.85  # of θ: the network does not know where in the mesh the errors are, the offsets do
    assert aware[0] < 0.7


def test_before_any_fit_it_is_the_design_and_both_gradients_pass_through_it():
    design = bp.devices.MZIMesh(N, N)
    network, x, theta = ErrorNetwork(design, seed=1), draw(5, N), 6 * torch.rand(design.theta.size)
    torch.testing.assert_close(network(x, theta), design.transfer(x, theta))
    stacked = network(x.expand(2, 5, N), theta.expand(2, -1))
    torch.testing.assert_close(stacked, design.transfer(x, theta).expand(2, 5, N))
    with torch.no_grad():
        network.linear.normal_()
        network.outer.normal_()
    x.requires_grad_()
    theta.requires_grad_()
    assert torch.autograd.gradcheck(network.double(), (x.double(), theta.double()))


def test_it_costs_no_query_beyond_the_forward_pass_and_is_saved_with_the_layer():
    def made() -> bp.PhysicalLayer:
        twin = Twin(ErrorNetwork(bp.devices.MZIMesh(N, N)), fit_steps=0, online_steps=2, watch=None)
        return bp.PhysicalLayer(_device(0), FromSurrogate(twin), twin)

    layer, again = made(), made()
    for _ in range(3):
        layer(draw(20, N).requires_grad_()).sum().backward()
    assert dict(layer.ledger.rows) == {bp.Purpose.FORWARD: 60}
    again.load_state_dict(layer.state_dict())
    assert torch.equal(again.surrogate.model.linear, layer.surrogate.model.linear)
    assert layer.surrogate.model.linear.abs().max() > 0


def test_impossible_models_are_refused():
    with pytest.raises(ArgumentError, match="Simulator or a model"):
        ErrorNetwork(torch.nn.Linear(3, 3))
    with pytest.raises(ArgumentError, match="hidden"):
        ErrorNetwork(bp.devices.MZIMesh(N, N), hidden=-1)
    with pytest.raises(ShapeError, match="vectors"):
        ErrorNetwork(bp.devices.EchoState(4, 2, 5))
    with pytest.raises(IncompatibleError):
        bp.PhysicalLayer(bp.devices.MZIMesh(8, 8), surrogate=Twin(ErrorNetwork(bp.devices.MZIMesh(N, N))))
