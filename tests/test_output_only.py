"""Devices in series as one, trained from the error at their output alone."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

import blackprop as bp
from blackprop.core import Purpose
from blackprop.devices import Chain, Drifting, ImperfectMicroring, ImperfectThreeSplitterMesh, Noisy
from blackprop.errors import ArgumentError, CheckpointError, IncompatibleError, ShapeError
from blackprop.twins import ChainTwin
from support import Opaque, draw

MODULATORS = bp.devices.LightModulator(6, 5), bp.devices.LightModulator(5, 4), bp.devices.LightModulator(4, 3)


def output_only(device: bp.Device, model: nn.Module) -> bp.PhysicalLayer:
    twin = bp.surrogates.Twin(model, fit_steps=0, online_steps=0)
    method = bp.estimators.FromSurrogate(twin), twin
    return bp.PhysicalLayer(device, *method, generator=torch.Generator().manual_seed(1))


def as_designed(chain: Chain) -> ChainTwin:
    return ChainTwin(chain, *(bp.twins.OffsetTwin(device) for device in chain.devices))


def deep(last: bool = True) -> Chain:
    first, second, third = MODULATORS
    return Chain(first, torch.tanh, second, torch.tanh, *([third] if last else []))


# The chain as a device.


@pytest.mark.parametrize(
    "chain",
    [
        deep(),
        deep(last=False),
        Chain(*MODULATORS),
        Chain(torch.sin, bp.devices.Diffraction(9, 4), nn.Tanh(), bp.devices.Microring(4, 3)),
        Chain(Noisy(bp.devices.LightModulator(6, 5), read=0.01, seed=1), torch.tanh, Opaque(MODULATORS[1])),
    ],
    ids=["maps", "a map last", "linear", "limits and a map first", "noise and hardware"],
)
def test_a_chain_keeps_the_contract_of_devices(chain):
    bp.testing.check_device(chain)


def test_it_is_what_its_parts_are_one_after_the_other(generator):
    chain = deep()
    theta, x = chain.theta.draw(generator), draw(7, 6)
    a, b, c = chain.settings(theta)
    first, second, third = MODULATORS
    expected = third.transfer(second.transfer(first.transfer(x, a).tanh(), b).tanh(), c)
    oracle = chain.oracle()
    assert oracle is not None
    assert torch.equal(oracle(x, theta), expected)
    (y,) = chain.measure([bp.Query(x, theta, Purpose.FORWARD)])
    torch.testing.assert_close(y, expected)


def test_it_declares_what_its_parts_let_it_declare():
    linear, deep_, mixed = Chain(*MODULATORS), deep(), Chain(bp.devices.Diffraction(4, 4), MODULATORS[2])
    assert (linear.linear, linear.theta.period) == (True, MODULATORS[0].theta.period)
    assert not deep_.linear
    assert deep_.declaration.oracle is not None
    assert Chain(Opaque(MODULATORS[0])).oracle() is None
    assert mixed.theta.period is None
    low, high = mixed.theta.bounds(torch.zeros(()))
    assert torch.equal(low, torch.tensor([0.0] * 4 + [-torch.inf] * 12))
    assert torch.equal(high, torch.tensor([1.0] * 4 + [torch.inf] * 12))
    assert deep_.coupling is bp.Coupling.NONE
    quick, slow = (bp.devices.Matrix(3, 3, cost=bp.Cost(*cost)) for cost in ((1.0, 4.0), (2.0, 3.0)))
    assert Chain(quick, slow).cost == bp.Cost(programming=2.0, row=4.0)


def test_a_part_that_keeps_its_setting_is_not_written_again(generator):
    parts = [Opaque(device) for device in MODULATORS]
    chain = Chain(*parts)
    theta = chain.theta.draw(generator)
    other = theta.clone()
    other[-1] += 1
    chain.measure([bp.Query(draw(2, 6), t, Purpose.FORWARD) for t in (theta, other)])
    assert [len(part.written) for part in parts] == [1, 1, 2]
    chain.forget()
    chain.measure([bp.Query(draw(2, 6), other, Purpose.FORWARD)])
    assert [len(part.written) for part in parts] == [2, 2, 3]


def test_the_state_of_its_parts_is_its_state():
    def make() -> Chain:
        return Chain(Drifting(bp.devices.LightModulator(4, 3), per_programming=0.1), bp.devices.Matrix(3, 2))

    chain, other, queries = make(), make(), [bp.Query(draw(3, 4), draw(18, seed=i), Purpose.FORWARD) for i in range(3)]
    chain.measure(queries)
    other.load_state_dict(chain.state_dict())
    found, again = (each.measure(queries) for each in (chain, other))
    assert all(torch.equal(a, b) for a, b in zip(found, again, strict=True))
    before = chain.state_dict()["parts"][0]
    with pytest.raises((KeyError, ValueError)):
        chain.load_state_dict({"parts": [other.state_dict()["parts"][0], {"what": 1}]})
    assert str(chain.state_dict()["parts"][0]) == str(before)
    with pytest.raises(CheckpointError):
        bp.PhysicalLayer(make()).set_extra_state({"what": 1})


@pytest.mark.parametrize(
    ("parts", "error", "match"),
    [
        ((), ArgumentError, "at least one device"),
        ((torch.tanh,), ArgumentError, "at least one device"),
        ((MODULATORS[0], MODULATORS[2]), ShapeError, r"gives rows \(5,\)"),
        ((MODULATORS[0], 3.0), ArgumentError, "takes devices and functions"),
        ((MODULATORS[0], nn.Tanh), ArgumentError, "takes devices and functions"),
        ((MODULATORS[0], lambda x: x[:, :2]), ArgumentError, "elementwise"),
    ],
)
def test_parts_that_do_not_fit_are_refused(parts, error, match):
    with pytest.raises(error, match=match):
        Chain(*parts)


def test_models_that_do_not_fit_are_refused():
    chain = deep()
    models = [bp.twins.OffsetTwin(device) for device in MODULATORS]
    for given, match in ((models[:2], "of each of 3"), (models[::-1], "is given for"), ([1, 2, 3], "takes Modules")):
        with pytest.raises(ArgumentError, match=match):
            ChainTwin(chain, *given)
    with pytest.raises(ArgumentError, match="takes a Chain"):
        ChainTwin(MODULATORS[0], models[0])
    with pytest.raises(IncompatibleError, match=r"size of theta|in_shape|out_shape"):
        output_only(Chain(MODULATORS[0]), ChainTwin(chain, *models))


# Output-only error.


def gradients(layer: bp.PhysicalLayer, x: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    x = x.clone().requires_grad_()
    (layer(x) - target).square().sum().backward()
    return x.grad, layer.theta.grad


def test_it_is_backpropagation_where_the_model_is_the_device():
    chain, x, target = deep(), draw(8, 6), draw(8, 3, seed=1)
    layer = output_only(chain, as_designed(chain))
    found = gradients(layer, x, target)
    exact = bp.PhysicalLayer(chain, *bp.presets.oracle(), generator=torch.Generator().manual_seed(1))
    for ours, truth in zip(found, gradients(exact, x, target), strict=True):
        torch.testing.assert_close(ours, truth)


def imperfect(sizes: tuple[int, ...]) -> Chain:
    """Meshes off by 0.2 rad and 0.05 in their splitters."""
    meshes = [ImperfectThreeSplitterMesh(a, b, seed=i) for i, (a, b) in enumerate(pairwise(sizes))]
    parts = [part for mesh in meshes for part in (torch.tanh, mesh)]
    return Chain(*parts[1:])


def meshes(chain: Chain) -> ChainTwin:
    return ChainTwin(chain, *(bp.twins.MeshTwin(device) for device in chain.devices))


def test_it_is_physics_aware_training_for_one_device():
    device = ImperfectThreeSplitterMesh(6, 4, seed=3)
    x, target = draw(8, 6), draw(8, 4, seed=1)
    layer = output_only(Chain(device), meshes(Chain(device)))
    found = gradients(layer, x, target)
    # By hand: the error at what the device read, through the Jacobian of the ideal mesh at the same input.
    leaf, theta = x.clone().requires_grad_(), layer.theta.detach().clone().requires_grad_()
    error = 2 * (device.transfer(x, theta.detach()) - target)
    bp.devices.ThreeSplitterMesh(6, 4).transfer(leaf, theta).backward(error)
    for ours, truth in zip(found, (leaf.grad, theta.grad), strict=True):
        torch.testing.assert_close(ours, truth, rtol=1e-4, atol=1e-5)


def test_deeper_the_activations_are_the_models_and_the_error_the_devices():
    chain = imperfect((6, 6, 4))
    x, target = draw(8, 6), draw(8, 4, seed=1)
    layer = output_only(chain, meshes(chain))
    found = gradients(layer, x, target)[1]
    theta = layer.theta.detach()
    ideal, exact = [bp.devices.ThreeSplitterMesh(6, 6), bp.devices.ThreeSplitterMesh(6, 4)], chain.oracle()
    assert exact is not None
    error = 2 * (exact(x, theta) - target)

    def pulled_back(hidden: Tensor | None) -> Tensor:
        """With what the second mesh is linearised at: `hidden`, or the model's own activation."""
        leaf = theta.clone().requires_grad_()
        a, b = leaf.split([30, 30])
        h = ideal[0].transfer(x, a).tanh()
        ideal[1].transfer(h if hidden is None else hidden + (h - h.detach()), b).backward(error)
        return leaf.grad

    torch.testing.assert_close(found, pulled_back(None), rtol=1e-4, atol=1e-5)
    read = chain.devices[0].oracle()(x, theta[:30]).tanh()  # what physics-aware training would have to read
    assert float((found - pulled_back(read)).norm() / found.norm()) > 0.05


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_a_sample_and_pass_cost_one_row_whatever_the_depth(depth):
    parts = [Opaque(bp.devices.LightModulator(5, 5)) for _ in range(depth)]
    chain = Chain(*[part for device in parts for part in (torch.tanh, device)])
    model = ChainTwin(chain, *(bp.twins.OffsetTwin(part.inner) for part in parts))
    layer = output_only(chain, model)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    for seed in range(3):
        optimizer.zero_grad()
        gradients(layer, draw(16, 5, seed=seed), draw(16, 5, seed=9))
        optimizer.step()
    assert layer.ledger.rows == {Purpose.FORWARD: 3 * 16}
    assert layer.ledger.programmings == {Purpose.FORWARD: 3}


def test_the_contract():
    chain = deep()
    bp.testing.check_surrogate(
        lambda: bp.surrogates.Twin(as_designed(chain), fit_steps=0, online_steps=0), device=chain, tolerance=1e-3
    )


def test_a_twin_of_all_parts_is_fitted_to_the_output_alone(generator):
    chain = Chain(ImperfectThreeSplitterMesh(6, 6, seed=0), torch.tanh, ImperfectMicroring(6, 4, seed=1))
    twin = bp.surrogates.Twin(
        ChainTwin(chain, bp.twins.MeshTwin(chain.devices[0]), bp.twins.MicroringTwin(bp.devices.Microring(6, 4))),
        settings=64,
        rows=10,
        fit_steps=300,
    )
    layer = bp.PhysicalLayer(chain, surrogate=twin, generator=generator)
    layer(draw(8, 6).requires_grad_())
    assert float(twin.residual) < 0.1
    assert layer.ledger.rows == {Purpose.FORWARD: 8, Purpose.CALIBRATE: 640}


def digits() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Of 4×4 pixels, rows of norm 4."""
    datasets = pytest.importorskip("sklearn.datasets")
    images, labels = datasets.load_digits(return_X_y=True)
    x = torch.tensor(images, dtype=torch.float32).view(-1, 1, 8, 8)
    x = nn.functional.avg_pool2d(x, 2).flatten(1)
    x, y = 4 * (x - x.mean(0)) / (x - x.mean(0)).norm(dim=1, keepdim=True), torch.tensor(labels)
    return x[:1400], y[:1400], x[1400:], y[1400:]


def accuracy(layer: bp.PhysicalLayer, epochs: int = 2) -> float:
    x, y, x_test, y_test = digits()
    model = nn.Sequential(layer, nn.BatchNorm1d(10))
    optimizer = torch.optim.Adam(bp.param_groups(model, lr=1e-2, device_lr=2e-2))
    order = torch.Generator().manual_seed(0)
    for _ in range(epochs):
        for some in torch.randperm(len(x), generator=order).split(50):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x[some]), y[some]).backward()
            optimizer.step()
    model.eval()
    return float((model(x_test).argmax(1) == y_test).float().mean())


def test_three_imperfect_devices_learn_digits_better_than_frozen_ones():
    trained = output_only(chain := imperfect((16, 16, 16, 10)), meshes(chain))
    frozen = output_only(chain := imperfect((16, 16, 16, 10)), meshes(chain))
    frozen.theta.requires_grad_(False)
    assert accuracy(trained) > accuracy(frozen) + 0.15
