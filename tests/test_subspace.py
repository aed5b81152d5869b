"""Subspace learning: gains between two meshes from light that runs both ways, whatever the meshes' errors are."""

from __future__ import annotations

import json

import pytest
import torch
from torch import Tensor

import blackprop as bp
from blackprop.core import Gains, Ledger, Query, metered, run
from blackprop.devices import Chip, SVDMesh, chips
from blackprop.errors import ArgumentError, ContractError, IncompatibleError
from blackprop.estimators import Subspace
from blackprop.surrogates import Reciprocal
from blackprop.testing import check_device, check_estimator
from support import draw

ERRORS = {"losses": chips.Losses(0.3, 1.0, 0.3), "splitter": 0.05}  # and offsets anywhere on the circle


def factored(d_in: int, d_out: int, gains: int, design: chips.Design | None = None, **parts) -> SVDMesh:
    design = design if design is not None else chips.Rectangular()
    parts = {**ERRORS, **parts}
    return SVDMesh(Chip(design, d_in, gains, seed=1, **parts), Chip(design, gains, d_out, seed=2, **parts))


def setting(device: bp.Device, dtype: torch.dtype = torch.float64) -> Tensor:
    return device.theta.draw(torch.Generator().manual_seed(0)).to(dtype)


def truth(device: SVDMesh, x: Tensor, theta: Tensor, g: Tensor) -> Tensor:
    leaf = theta.clone().requires_grad_()
    return torch.autograd.grad(device.transfer(x, leaf), leaf, g)[0]


DEVICES = [
    factored(8, 8, 8),
    factored(10, 4, 6, chips.Rectangular(splitters=3)),
    factored(5, 7, 3, chips.Triangular()),
    factored(4, 8, 4, chips.Butterfly()),
    factored(4, 4, 4, heaters=chips.Heaters()),
]


@pytest.mark.parametrize("device", DEVICES, ids=str)
def test_the_gradient_of_the_gains_is_the_oracles_at_two_rows_a_pair_and_no_programming(device):
    x, g, theta, ledger = draw(12, *device.in_shape), draw(12, *device.out_shape, seed=1), setting(device), Ledger()
    exact, part = truth(device, x.double(), theta, g.double()), device.declaration.capability(Gains).parameters
    for dtype, error in ((torch.float32, 1e-5), (torch.float64, 1e-12)):
        arguments = (x.to(dtype), theta.to(dtype), x.to(dtype), g.to(dtype))
        found = run(Subspace().grad_theta(*arguments, device.declaration, torch.Generator()), metered(device, ledger))
        assert float((found.double() - exact)[part].norm() / exact[part].norm()) < error
        others = found.clone()
        others[part] = 0
        assert not bool(others.any())
    pairs = min(12, *device.in_shape, *device.out_shape)
    assert ledger.actions == {"gains": 4 * pairs}
    assert ledger.total_programmings == 2  # one of each dtype, which the forward pass has written in a layer


@pytest.mark.parametrize("pairs", [2, None])
def test_the_contracts_hold_and_the_bias_of_few_pairs_is_reported(pairs):
    device = factored(6, 5, 4)
    claims = dict(check_estimator(Subspace(pairs), device=device).claims)
    assert claims[f"parameters that are trained, {device}"] == f"4 of {device.theta.size}"
    assert (float(claims[f"bias by the batch left out, {device}"].split()[0]) > 0.05) == (pairs == 2)
    assert claims[f"price, {device}"].startswith(f"{2 * min(pairs or 5, 5)} rows")


class Elsewhere(Subspace):
    """Says that it trains all parameters."""

    def trained(self, spec: bp.Declaration) -> None:
        del spec


def test_an_estimator_that_trains_fewer_parameters_than_it_says_is_found_out():
    with pytest.raises(ContractError, match="mean"):
        check_estimator(Elsewhere(), device=factored(6, 5, 4))


def test_a_device_whose_gains_are_others_or_whose_reference_is_turned_is_found_out():
    shifted = factored(6, 5, 4)
    shifted.capabilities = (Gains(shifted.declaration.capability(Gains).first - 1, 4),)
    with pytest.raises(ContractError, match="gains give the gradient"):
        check_device(shifted)

    turned = factored(6, 5, 4)
    read = turned.read_at_gains
    turned.read_at_gains = lambda x: torch.tensor([[1.0, -1], [1, 1]]) @ read(x) / 2**0.5  # by an eighth of a turn
    with pytest.raises(ContractError, match="gains give the gradient"):
        check_device(turned)
    check_device(factored(6, 5, 4))


def test_both_gradients_of_a_layer_come_from_the_device_and_phases_stay():
    device = factored(6, 5, 4)
    layer = bp.PhysicalLayer(device, Subspace(), Reciprocal(), generator=torch.Generator().manual_seed(0))
    optimizer, part = torch.optim.Adam(layer.parameters(), 0.02), device.declaration.capability(Gains).parameters
    x, before = draw(32, 6), layer.theta.detach().clone()
    goal = before.clone()
    goal[part] = torch.tensor([0.3, -0.7, 0.1, 0.5])
    target = device.transfer(x, goal)
    losses = []
    for _ in range(300):
        optimizer.zero_grad()
        loss = (layer(x) - target).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 1e-4 * losses[0]
    moved = layer.theta.detach() != before
    assert int(moved.sum()) == 4


def test_noise_and_drift_hand_the_capability_on_and_the_network_describes_it():
    device = bp.devices.Drifting(bp.devices.Noisy(factored(6, 5, 4), read=0.02), per_programming=0.01)
    gains = device.declaration.capability(Gains)
    described = json.loads(json.dumps(gains.fields()))
    assert Gains(**described) == gains
    order = torch.arange(device.theta.size).flip(0)
    assert not bp.devices.Declared(device, order=order).declaration.has(Gains)


@pytest.mark.parametrize(
    ("build", "error", "words"),
    [
        (lambda: Subspace(0), ArgumentError, "pairs"),
        (lambda: Gains(-1, 3), ArgumentError, "from 0"),
        (lambda: Gains(2, 0), ArgumentError, "at least one"),
        (lambda: Subspace().check(bp.devices.MZIMesh(4, 4).declaration), IncompatibleError, "gains"),
        (lambda: SVDMesh(Chip(chips.Rectangular(), 4, 3), Chip(chips.Rectangular(), 4, 4)), ArgumentError, "joins"),
        (
            lambda: SVDMesh(Chip(chips.Rectangular(), 4, 4), Chip(chips.Rectangular(), 4, 4, readout=chips.Power())),
            ArgumentError,
            "left",
        ),
        (lambda: SVDMesh(bp.devices.MZIMesh(4, 4), Chip(chips.Rectangular(), 4, 4)), ArgumentError, "right"),
    ],
)
def test_wrong_arguments_are_refused(build, error, words):
    with pytest.raises(error, match=words):
        build()


def test_gains_beyond_the_parameters_and_a_device_that_is_not_linear_are_refused():
    device = factored(4, 4, 4)
    device.capabilities = (Gains(device.theta.size - 2, 4),)
    with pytest.raises(IncompatibleError, match="among the parameters"):
        bp.PhysicalLayer(device, Subspace(), Reciprocal())
    bent = factored(4, 4, 4)
    bent.linear = False
    with pytest.raises(IncompatibleError, match="linear"):
        Subspace().check(bent.declaration)


def test_a_row_at_the_inputs_and_one_at_the_outputs_add_up():
    device = factored(5, 4, 3)
    theta = setting(device)
    x, g = draw(2, 5, dtype=torch.float64), draw(2, 4, seed=1, dtype=torch.float64)
    rows = [torch.cat((x, 0 * g), 1), torch.cat((0 * x, g), 1), torch.cat((x, g), 1)]
    queries = [Query(each, theta, bp.Purpose.PARAMETER, Gains) for each in rows]
    ahead, back, both = metered(device, Ledger())(queries)
    torch.testing.assert_close(ahead + back, both)
    assert float(ahead.abs().min()) > 0
    assert float(back.abs().min()) > 0
