"""Adapters beside a device that drifts: the correction, its cost, its set, and ten simulated years."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

import blackprop as bp
from blackprop.deployment import PortGains
from blackprop.devices import PCM, Crossbar, Matrix, Memristive, MZIMesh
from blackprop.errors import ArgumentError
from support import draw


def adapter(rank: int = 0, **options) -> bp.Adapter:
    layer = bp.PhysicalLayer(Matrix(12, 8), bias=True, generator=torch.Generator().manual_seed(0))
    layer.bias.data.copy_(draw(8, seed=1))
    return bp.Adapter(layer, rank, **options)


def drift(made: bp.Adapter, change: torch.Tensor) -> None:
    """Replace the matrix A (d_out, d_in) of the device by A + change, behind the layer's back."""
    old = made.layer.device

    class Drifted(bp.Simulator):
        def __init__(self) -> None:
            super().__init__(12, 8, old.theta, linear=True)

        def transfer(self, x, theta, /):
            return old.transfer(x, theta) + x @ change.to(x).mT

    made.layer.device = Drifted()


def test_it_changes_nothing_at_first_and_freezes_the_device():
    made, x = adapter(rank=2), draw(5, 12)
    with torch.no_grad():
        assert torch.allclose(made(x), made.layer(x))
    assert not made.layer.theta.requires_grad
    assert {name for name, p in made.named_parameters() if p.requires_grad} == {
        *("scale", "left", "right"),
        *("layer.gain", "layer.bias"),
    }
    assert made.share == (8 + 2 * 20) / 96


def test_scales_undo_what_each_output_lost():
    made, x = adapter(), draw(80, 12)
    made.remember(x)
    made.layer.device = PortGains(made.layer.device, torch.ones(12), torch.linspace(0.3, 1.0, 8))
    before, after = made.fit()
    assert before > 0.3
    assert after < 1e-5
    assert torch.allclose(made.scale, 1 / torch.linspace(0.3, 1.0, 8), atol=1e-4)


def test_a_correction_of_rank_r_removes_a_change_of_rank_r():
    made, x = adapter(rank=2), draw(200, 12)
    made.remember(x)
    drift(made, 0.1 * draw(8, 2, seed=3) @ draw(2, 12, seed=4))
    before, after = made.fit()
    assert before > 0.3
    assert after < 0.25 * before
    fresh = draw(50, 12, seed=9)
    old = Matrix(12, 8).transfer(fresh, made.layer.theta)
    with torch.no_grad():
        found = made.eval()(fresh) - made.layer.bias
    assert (found - old).norm() < 0.25 * before * old.norm()


def test_a_fit_that_the_check_rows_refuse_is_left():
    """An unchanged device with readings of pure noise around it: the fit must not move the adapter."""
    made = adapter(rank=4)
    made.layer.device = bp.devices.Noisy(made.layer.device, read=0.5, seed=1)
    made.remember(draw(24, 12))
    before, after = made.fit()
    assert after <= before
    exact = adapter(rank=4)
    exact.remember(draw(24, 12))
    assert exact.fit() == (0.0, 0.0)
    assert torch.equal(exact.scale, torch.ones(8))


def test_it_costs_its_rows_and_no_programming():
    made, x = adapter(rank=1), draw(40, 12)
    made.remember(x)
    spent = bp.ledger(made)
    assert (spent.total_rows, spent.total_programmings) == (40, 1)
    made.fit()
    made.residual()
    assert (bp.ledger(made).total_rows, bp.ledger(made).total_programmings) == (120, 1)


def test_it_trains_like_other_parameters_without_a_write():
    made, x = adapter(rank=1), draw(40, 12)
    theta = made.layer.theta.detach().clone()
    optimizer = torch.optim.Adam([p for p in made.parameters() if p.requires_grad], lr=0.05)
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        loss = (made(x) - 1.5 * draw(40, 8, seed=2)).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]
    assert torch.equal(made.layer.theta, theta)
    assert bp.ledger(made).total_programmings == 1


def test_a_set_is_chosen_by_age_and_by_the_residual():
    made, x = adapter(), draw(80, 12)
    made.remember(x)
    bare, ages = made.layer.device, {1e3: 0.9, 1e6: 0.6, 1e9: 0.4}
    for age, left in ages.items():
        made.layer.device = PortGains(bare, torch.ones(12), torch.full((8,), left))
        made.fit()
        made.keep(age)
    assert made.choose(2e6).age == 1e6
    assert float(made.scale[0].detach()) == pytest.approx(1 / 0.6, rel=1e-4)
    made.layer.device = PortGains(bare, torch.ones(12), torch.full((8,), 0.42))
    assert made.choose().age == 1e9
    other = adapter()
    other.load_state_dict(bp.for_another_device(copy.deepcopy(made.state_dict())))
    assert other.choose(1.0).age == 1e3
    assert other.fit()[1] <= 1.0


def test_wrong_layers_and_empty_sets_are_refused():
    layer = bp.PhysicalLayer(MZIMesh(6, 4))
    for make, match in (
        (lambda: bp.Adapter(nn.Linear(3, 2)), "PhysicalLayer"),  # pyright: ignore[reportArgumentType]
        (lambda: bp.Adapter(layer, rank=5), "between 0 and 4"),
        (lambda: bp.Adapter(layer).choose(), "empty"),
        (lambda: bp.Adapter(layer).fit(), "remember"),
        (lambda: bp.Adapter(layer).remember(torch.zeros(3, 6)), "at least 8"),
    ):
        with pytest.raises(ArgumentError, match=match):
            make()


def test_ten_years_of_a_crossbar_that_is_written_once():
    """Digits, 64 → 512 → 10, phase-change cells: 99 % of the clean accuracy from 0.5 % of the parameters, no write."""
    images, labels = (torch.as_tensor(each) for each in load_digits(return_X_y=True))
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    x, y = images[order].float() / 16 - 0.3, labels[order]
    torch.manual_seed(0)
    digital = nn.Sequential(nn.Linear(64, 512), nn.ReLU(), nn.Linear(512, 10))
    optimizer = torch.optim.Adam(digital.parameters(), lr=3e-3)
    for _ in range(15):
        for rows in torch.randperm(1300).split(100):
            optimizer.zero_grad()
            nn.functional.cross_entropy(digital(x[rows]), y[rows]).backward()
            optimizer.step()
    cell, now = replace(PCM, drift=0.1, drift_spread=0.01), [0.0]  # twice the drift of the preset

    def written(linear: nn.Linear, seed: int, *, per_output: bool) -> bp.Adapter:
        crossbar = Crossbar(linear.in_features, linear.out_features, memristor=cell, seed=seed)
        layer = bp.PhysicalLayer(Memristive(crossbar, seed=seed, clock=lambda: now[0]), bias=True)
        size = float(linear.weight.detach().abs().max())
        layer.theta.data.copy_((linear.weight.detach() / size).flatten())
        layer.gain.data.fill_(size * math.sqrt(linear.in_features))
        layer.bias.data.copy_(linear.bias.detach())
        return bp.Adapter(layer, per_output=per_output)

    first, last = written(digital[0], 1, per_output=False), written(digital[2], 2, per_output=True)
    chip = nn.Sequential(first, nn.ReLU(), last).eval()

    @torch.no_grad()
    def accuracy(model: nn.Module) -> float:
        return float((model(x[1300:]).argmax(1) == y[1300:]).double().mean())

    with torch.no_grad():
        first.remember(x[:400])
        last.remember(digital[1](digital[0](x[:400])))
        clean = accuracy(digital)
        now[0] = 3.15e8
        bare = accuracy(chip)
        first.fit()
        last.fit()
    assert bare < 0.99 * clean
    assert accuracy(chip) >= 0.99 * clean
    assert bp.ledger(chip).total_programmings == 2
    parameters = sum(p.numel() for each in (first, last) for p in (each.scale, each.left, each.right))
    assert parameters < 0.005 * (64 * 512 + 512 * 10)
