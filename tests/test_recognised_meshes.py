"""Meshes that declare nothing are recognised by their outer columns, calibrated, and trained exactly."""

from __future__ import annotations

import copy
import math

import pytest
import torch

import blackprop as bp
from blackprop.core import metered
from blackprop.devices import Chip, Declared, LightModulator, Noisy, ThreeSplitterMesh, chips, from_callable
from blackprop.estimators import FromSurrogate, HeldSubspace, Still
from blackprop.planning import Family, InquiryResult, inquire
from blackprop.twins import CalibratedChip
from support import draw

PERIOD = 2 * math.pi


def cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(torch.cosine_similarity(a.flatten(), b.flatten(), dim=0))


def as_built(modes: int, noise: float = 0.01, seed: int = 0, outputs: int | None = None) -> Chip:
    return Noisy(Chip(chips.Rectangular(), modes, outputs or modes, modes=modes, seed=seed), read=noise, seed=seed)


def untold(device: bp.Device) -> Declared:
    """The device, of which the period of its parameters alone is declared."""
    known = Declared(device, period=PERIOD)
    known.capabilities = ()
    return known


def asked(device: bp.Device, seed: int = 0) -> tuple[InquiryResult, bp.Ledger]:
    ledger, generator = bp.Ledger(), torch.Generator().manual_seed(seed)
    theta = device.theta.draw(generator)
    return bp.run(inquire(device.declaration, theta, 1.0, generator), metered(device, ledger)), ledger


def by_columns(chip: Chip, swapped: bool) -> torch.Tensor:
    """The phase of the chip that stands at each place of θ, listed column by column."""
    blocks, swapped = chip.layout.places, int(swapped)
    return torch.stack((2 * blocks + swapped, 2 * blocks + 1 - swapped), 1).flatten()


@pytest.mark.parametrize("noise", [0.0, 0.01, 0.05])
@pytest.mark.parametrize(("modes", "outputs"), [(6, 6), (8, 6), (16, 12)])
def test_a_rectangular_mesh_is_recognised_by_three_settings(modes: int, outputs: int, noise: float):
    for seed in range(3):
        found, ledger = asked(untold(as_built(modes, noise, seed, outputs)), seed)
        assert found.family is Family.MESH, found
        assert found.order is None
        assert found.drawing.modes == modes
        assert ledger.total_programmings <= 7
        again = InquiryResult.from_state(found.state_dict())
        assert (again.drawing.design, again.drawing.modes) == (found.drawing.design, modes)
        assert not found.sure  # the calibration has to confirm it


@pytest.mark.parametrize("swapped", [False, True], ids=["outer phase first", "inner phase first"])
def test_a_mesh_whose_driver_lists_phases_by_columns_is_recognised(swapped: bool):
    chip = Chip(chips.Rectangular(), 8, 8, seed=3)
    order = by_columns(chip, swapped)
    device = from_callable(
        lambda x, t: chip.transfer(x, t[order.argsort()]), in_shape=8, out_shape=8, theta_size=56, period=PERIOD
    )
    found, _ = asked(device)
    assert found.family is Family.MESH
    theta = draw(56, seed=2)
    assert torch.equal(found.ordered(theta)[order], theta)
    layer = bp.PhysicalLayer(device)
    x, g = draw(16, 8, seed=5), draw(16, 8, seed=6)
    layer(x).backward(g)
    assert isinstance(layer.surrogate.inner, CalibratedChip)
    t = layer.theta.detach().clone().requires_grad_()
    right = torch.autograd.grad(chip.transfer(x, t[order.argsort()]), t, g)[0]
    assert cosine(layer.theta.grad, right) > 0.999


@pytest.mark.parametrize(
    "device",
    [
        ThreeSplitterMesh(8, 8),
        Declared(Chip(chips.Rectangular(), 8, 8), order=torch.randperm(56, generator=torch.Generator().manual_seed(0))),
        from_callable(
            lambda x, t: x @ (t[:, None] * draw(56, 64, seed=7)).sin().sum(0).view(8, 8),
            in_shape=8,
            out_shape=8,
            theta_size=56,
        ),
        from_callable(  # its last outputs answer to the phases that a mesh has there, and to others
            lambda x, t: x @ draw(8, 8, seed=1) * (1 + t.view(7, 8).cos().prod(0)),
            in_shape=8,
            out_shape=8,
            theta_size=56,
        ),
    ],
    ids=["three splitters", "unknown order", "sums of sines", "gains of outputs"],
)
def test_other_matrices_of_as_many_parameters_are_not_called_meshes(device: bp.Device):
    for seed in range(3):
        found, _ = asked(untold(device), seed)
        assert found.family is not Family.MESH, found


def test_a_mesh_without_declaration_is_trained_as_exactly_as_with_one():
    cosines = []
    for told in (True, False):
        device = as_built(8, seed=4)
        layer = bp.PhysicalLayer(device if told else untold(device))
        x, g = draw(32, 8, seed=1), draw(32, 8, seed=2)
        layer(x).backward(g)
        assert layer.surrogate.chosen == "calibrated-chip"
        assert "0.0%" not in repr(layer)
        t = layer.theta.detach().clone().requires_grad_()
        chip = device.device
        cosines.append(cosine(layer.theta.grad, torch.autograd.grad(chip.transfer(x, t), t, g)[0]))
    assert min(cosines) > 0.99


def test_a_period_that_is_declared_in_five_digits_is_one_turn():
    known = Declared(as_built(8), period=6.2832)
    known.capabilities = ()
    layer = bp.PhysicalLayer(known)
    layer(draw(16, 8)).square().sum().backward()
    assert isinstance(layer.surrogate.inner, CalibratedChip)


def test_a_calibration_that_fails_leaves_a_matrix_without_known_places():
    true = Chip(chips.Rectangular(), 8, 8, seed=1)

    def transfer(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        middle = t.clone()  # the outer columns are those of a mesh, the phases between them drive others
        middle[8:-8] = 3 * t[8:-8].roll(1) ** 2
        return true.transfer(x, middle)

    device = from_callable(transfer, in_shape=8, out_shape=8, theta_size=56, period=PERIOD)
    layer = bp.PhysicalLayer(device)
    layer.surrogate.workload = bp.planning.Workload(16, None, rows=20_000, programmings=400)
    layer(draw(16, 8, seed=1)).backward(draw(16, 8, seed=2))
    found = layer.surrogate.finding
    assert found.family is Family.LINEAR
    assert found.drawing is None
    assert found.length is not None
    assert isinstance(layer.surrogate.estimator, HeldSubspace)


def shared(*layers: bp.PhysicalLayer) -> torch.nn.Sequential:
    budget = bp.Budget(rows=20_000, programmings=400)
    for layer in layers:
        layer.budget = budget
    return torch.nn.Sequential(*layers)


@pytest.mark.parametrize("mesh_first", [False, True])
def test_beside_a_layer_of_exact_gradients_a_layer_of_perturbations_stays_as_it_is(mesh_first: bool):
    mesh = bp.PhysicalLayer(untold(ThreeSplitterMesh(12, 12)))
    exact = bp.PhysicalLayer(untold(LightModulator(12, 12)))
    model = shared(mesh, exact) if mesh_first else shared(exact, mesh)
    start = mesh.theta.detach().clone()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for step in range(4):
        optimizer.zero_grad()
        model(draw(8, 12, seed=step)).square().sum().backward()
        optimizer.step()
        if step == 0:
            early = copy.deepcopy(model.state_dict())
            programmed = mesh.ledger.total_programmings
    assert isinstance(mesh.surrogate.estimator, Still)
    assert isinstance(exact.surrogate.estimator, FromSurrogate)
    assert torch.equal(mesh.theta, start)
    assert mesh.ledger.total_programmings == programmed
    assert bool(exact.theta.grad.any())
    model.load_state_dict(early)  # what was chosen is part of the state
    assert isinstance(mesh.surrogate.estimator, Still)


def test_two_layers_of_perturbations_are_both_trained():
    layers = [bp.PhysicalLayer(untold(ThreeSplitterMesh(12, 12))) for _ in range(2)]
    shared(*layers)(draw(8, 12)).square().sum().backward()
    assert all(isinstance(layer.surrogate.estimator, HeldSubspace) for layer in layers)
    alone = bp.PhysicalLayer(untold(ThreeSplitterMesh(12, 12)))
    shared(alone)(draw(8, 12)).square().sum().backward()
    assert isinstance(alone.surrogate.estimator, HeldSubspace)
