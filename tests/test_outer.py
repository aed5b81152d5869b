"""Outer products in crossbars: exact gradients at no query, backward reads of noisy cells, and training by both."""

from __future__ import annotations

import math
from itertools import count

import pytest
import torch
from torch import Tensor, nn

import blackprop as bp
from blackprop.core import Purpose, Query, ReadBack
from blackprop.devices import PCM, ConductanceArray, Crossbar, Matrix, Memristive, Memristor
from blackprop.errors import ArgumentError, IncompatibleError
from blackprop.estimators import Outer
from blackprop.surrogates import Reciprocal
from blackprop.testing import check_device, check_estimator
from support import draw

CELLS = [
    (Matrix(7, 5), Outer()),
    (Crossbar(7, 5), Outer(1 / math.sqrt(7))),
    (Crossbar(7, 5, reference=True), Outer(1 / math.sqrt(7))),
    (ConductanceArray(7, 5, scale=0.3), Outer(0.3, "pairs")),
    (ConductanceArray(7, 5, scale=0.3, reference=True), Outer(0.3, "reference")),
]


def layer_of(device: bp.Device, estimator: bp.estimators.Estimator) -> bp.PhysicalLayer:
    generator = torch.Generator().manual_seed(0)
    return bp.PhysicalLayer(device, estimator, Reciprocal(), generator=generator)


@pytest.mark.parametrize(("device", "estimator"), CELLS, ids=str)
def test_both_gradients_are_the_oracles_for_one_row_back_and_no_programming(device, estimator):
    layer, x, g = layer_of(device, estimator), draw(3, 7).requires_grad_(), draw(3, 5, seed=1)
    (layer(x) * g).sum().backward()
    rows, theta = x.detach().clone().requires_grad_(), layer.theta.detach().clone().requires_grad_()
    wanted = torch.autograd.grad((device.transfer(rows, theta) * g).sum(), (rows, theta))
    torch.testing.assert_close((x.grad, layer.theta.grad), wanted, rtol=1e-4, atol=1e-5)
    assert layer.ledger.rows == {Purpose.FORWARD: 3, Purpose.SURROGATE: 3}
    assert layer.ledger.total_programmings == 1  # of the forward pass


def test_it_passes_the_contract_of_estimators():
    check_estimator(Outer(), device=Matrix(6, 4))


@pytest.mark.parametrize(
    ("build", "error", "words"),
    [
        (lambda: Outer(0.0), ArgumentError, "slope"),
        (lambda: Outer(math.nan), ArgumentError, "slope"),
        (lambda: Outer(lines="two"), ArgumentError, "single, pairs, reference"),
        (lambda: Outer().check(bp.devices.ScatteringMedium(8, 8).declaration), IncompatibleError, "linear"),
        (lambda: Outer().check(bp.devices.MZIMesh(8, 8).declaration), IncompatibleError, "8 × 8 parameters"),
        (lambda: Outer(lines="pairs").check(Matrix(8, 8).declaration), IncompatibleError, "16 × 8 parameters"),
    ],
)
def test_devices_without_such_cells_are_refused(build, error, words):
    with pytest.raises(error, match=words):
        build()


def test_cells_that_vary_are_read_backwards_with_the_noise_of_the_transposed_matrix():
    cell = Memristor(read=0.05)
    device = Memristive(Crossbar(40, 30, memristor=cell), seed=3, clock=lambda: 0.0)
    check_device(device)
    theta, g = device.theta.draw(torch.Generator().manual_seed(1)), draw(1, 30).expand(4000, 30)
    (back,) = device.measure([Query(g, theta, Purpose.SURROGATE, ReadBack)])
    exact = Crossbar(40, 30, memristor=cell)
    (mean,) = exact.measure([Query(g[:1], theta, Purpose.SURROGATE, ReadBack)])
    conductances = cell.read * exact.conductances(theta)
    wanted = (g[:1].square() @ exact.array.variance(conductances.square())).sqrt()
    assert float((back.mean(0) - mean).abs().max()) < 6 * float(wanted.max()) / math.sqrt(len(g))
    torch.testing.assert_close(back.std(0, keepdim=True), wanted, rtol=0.1, atol=0)


def trained(estimator: str, seed: int) -> float:
    """The error on a task that a network of two crossbars with wires and drifting cells learns."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(256, 12, generator=generator)
    wanted = torch.tanh(x @ torch.randn(12, 12, generator=generator) / 3) @ torch.randn(12, 3, generator=generator) / 3

    def layer(d_in: int, d_out: int) -> bp.PhysicalLayer:
        device = Memristive(
            Crossbar(d_in, d_out, memristor=PCM, line=4.0, seed=seed), seed=seed, clock=count(60.0, 60.0).__next__
        )
        if estimator == "outer":
            parts = Outer(1 / math.sqrt(d_in)), Reciprocal()
        else:
            parts = bp.estimators.Oracle(), bp.surrogates.Oracle()
        made = bp.PhysicalLayer(device, *parts, bias=True, generator=generator)
        made.theta.requires_grad_(estimator != "frozen")
        return made

    torch.manual_seed(seed)
    model = nn.Sequential(layer(12, 24), nn.Tanh(), layer(24, 3))
    optimizer = torch.optim.Adam(model.parameters(), 2e-2)
    for step in range(80):
        rows = slice(32 * (step % 8), 32 * (step % 8 + 1))
        loss = (model(x[rows]) - wanted[rows]).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        errors: list[Tensor] = [(model(x) - wanted).square().mean() for _ in range(4)]
    return float(torch.stack(errors).mean() / wanted.square().mean())


def test_a_network_of_crossbars_with_wires_and_drift_trains_as_well_as_with_the_oracle():
    outer, oracle, frozen = (
        sum(trained(name, seed) for seed in range(2)) / 2 for name in ("outer", "oracle", "frozen")
    )
    assert outer < 1.2 * oracle
    assert outer < 0.5 * frozen
