"""Rates held at the drift that is measured, from rows read before, so that schedules do not freeze a device."""

from __future__ import annotations

import copy
import io
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, LRScheduler

import blackprop as bp
from blackprop.core import ReadBack, ReadBackField, Taps
from blackprop.errors import ArgumentError
from blackprop.experiments import Allowance, Digits, OracleReference, Trial, train
from blackprop.optim import DriftFloor
from support import draw


class Ramp(bp.devices.Wrapper):
    """Parameters that move by `rate` (rms) times a number of their own at every programming."""

    survives = (ReadBack, ReadBackField, Taps)

    def __init__(self, device: bp.Device, rate: float) -> None:
        super().__init__(device)
        move = torch.randn(self.theta.size, generator=torch.Generator().manual_seed(9))
        self.move = rate * move / move.square().mean().sqrt()
        self.offset = torch.zeros_like(self.move)

    def _setting(self, theta: Tensor, fresh: bool) -> Tensor:
        if fresh:
            self.offset = self.offset + self.move
        return theta + self.offset


def layer_of(device: bp.Device) -> bp.PhysicalLayer:
    method = bp.estimators.InSitu(), bp.surrogates.Reciprocal()
    return bp.PhysicalLayer(device, *method, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("noise", [0.0, 0.02])
@pytest.mark.parametrize("drift", [0.0, 0.003, 0.01])
def test_the_displacement_is_that_of_the_device_and_none_where_it_stays(noise, drift):
    ramp = Ramp(bp.devices.MZIMesh(16, 16), 0.0)
    layer = layer_of(bp.devices.Noisy(ramp, read=noise) if noise else ramp)
    layer(draw(8, 16)).square().sum().backward()
    assert layer.answers.x is not None
    reference = layer.reference()
    assert reference is not None
    ramp.offset = (
        10
        * drift
        * ramp.move.new_tensor(1.0)
        * torch.randn(ramp.theta.size, generator=torch.Generator().manual_seed(3))
    )
    layer.device.forget()
    before = copy.deepcopy(layer.ledger)
    found = layer.displacement(reference)
    assert found == pytest.approx(10 * drift, rel=0.5, abs=1e-9 if drift or not noise else 0.01)
    spent = bp.core.Purpose.SURROGATE
    assert layer.ledger.rows[spent] - before.rows[spent] == 12
    assert layer.ledger.programmings[spent] - before.programmings[spent] == 2


def trained(drift: float, follow: float | None, steps: int = 150) -> tuple[float, list[float], bp.core.Ledger]:
    """The mean loss of the last ten steps before and after which the device drifts on, the rates, the ledger."""
    device = Ramp(bp.devices.ThreeSplitterMesh(8, 8), drift)
    layer, x = layer_of(device), draw(64, 8)
    goal = device.device.theta.draw(torch.Generator().manual_seed(5))
    target = bp.devices.ThreeSplitterMesh(8, 8).transfer(x, goal)
    layer.gain.requires_grad_(False)
    optimizer = torch.optim.Adam([layer.theta], 0.05)
    schedule = CosineAnnealingLR(optimizer, steps)
    if follow is not None:
        schedule = DriftFloor(schedule, layer, every=10, follow=follow)
    order, losses, rates = torch.Generator().manual_seed(1), [], []
    for _ in range(steps):
        rows = torch.randperm(64, generator=order)[:16]
        optimizer.zero_grad()
        loss = (layer(x[rows]) / layer.gain.detach() - target[rows]).square().mean()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(float(loss.detach()))
        rates.append(optimizer.param_groups[0]["lr"])
    return sum(losses[-10:]) / 10, rates, layer.ledger


def test_under_a_steady_drift_the_rate_is_held_and_the_loss_with_it():
    frozen, rates, _ = trained(0.01, None)
    assert rates[-1] == pytest.approx(0, abs=1e-12)
    held, rates, ledger = trained(0.01, 5.0)
    assert 0.02 < rates[-1] < 0.09  # 5 × 0.01, and more programmings than steps
    assert held < 0.5 * frozen
    assert ledger.programmings[bp.Purpose.SURROGATE] == 2 * (150 // 10 - 1)


def test_on_a_device_that_stays_the_schedule_is_unchanged():
    _, plain, _ = trained(0.0, None, 40)
    _, held, _ = trained(0.0, 20.0, 40)
    assert held == pytest.approx(plain)


def test_its_state_is_restored_and_groups_without_devices_keep_their_rate():
    layer = layer_of(Ramp(bp.devices.MZIMesh(8, 4), 0.02))
    model = nn.Sequential(nn.Linear(8, 8), layer)

    def parts() -> tuple[torch.optim.Optimizer, DriftFloor]:
        optimizer = torch.optim.Adam(bp.param_groups(model, lr=1e-3, device_lr=1e-2))
        return optimizer, DriftFloor(LambdaLR(optimizer, lambda step: 0.5**step), model, every=2, follow=10.0)

    optimizer, schedule = parts()
    for seed in range(8):
        optimizer.zero_grad()
        model(draw(8, 8, seed=seed)).square().sum().backward()
        optimizer.step()
        schedule.step()
    rates = [group["lr"] for group in optimizer.param_groups]
    device = next(n for n, group in enumerate(optimizer.param_groups) if any(p is layer.theta for p in group["params"]))
    assert rates[device] > 0.1
    assert rates[0] == pytest.approx(1e-3 / 2**8)
    _, again = parts()
    file = io.BytesIO()
    torch.save(schedule.state_dict(), file)
    file.seek(0)
    again.load_state_dict(torch.load(file, weights_only=True))
    assert again.floors == schedule.floors
    assert again.get_last_lr() == schedule.get_last_lr()
    (mine,), (loaded,) = schedule.references, again.references
    assert all(torch.equal(getattr(mine, name), getattr(loaded, name)) for name in ("x", "setting", "y"))


def test_a_budget_that_is_spent_keeps_the_last_floor():
    layer = layer_of(Ramp(bp.devices.MZIMesh(8, 4), 0.02))
    optimizer = torch.optim.Adam([layer.theta], 1e-3)
    schedule = DriftFloor(LambdaLR(optimizer, lambda step: 1.0), layer, every=1, follow=10.0)
    for seed in range(4):
        layer(draw(8, 8, seed=seed)).square().sum().backward()
        optimizer.step()
        schedule.step()
        if seed == 2:
            layer.budget = bp.Budget(rows=30)
    assert schedule.floors[0] > 0.1


@pytest.mark.parametrize(
    ("wrong", "words"),
    [({"every": 0}, "every"), ({"follow": 0.0}, "follow"), ({"follow": float("inf")}, "follow")],
)
def test_wrong_arguments_are_refused(wrong, words):
    layer = layer_of(bp.devices.MZIMesh(4, 4))
    schedule = LambdaLR(torch.optim.Adam([layer.theta]), lambda step: 1.0)
    with pytest.raises(ArgumentError, match=words):
        DriftFloor(schedule, layer, **wrong)


def test_a_model_without_the_layer_and_a_thing_that_is_no_scheduler_are_refused():
    layer = layer_of(bp.devices.MZIMesh(4, 4))
    schedule = LambdaLR(torch.optim.Adam([layer.theta]), lambda step: 1.0)
    with pytest.raises(ArgumentError, match="none of its layers"):
        DriftFloor(schedule, nn.Linear(2, 2))
    with pytest.raises(ArgumentError, match="takes a learning-rate scheduler"):
        DriftFloor(schedule.optimizer, layer)


@dataclass(frozen=True)
class Moving:
    """A light modulator that drifts, as a kind of device for trials."""

    value: str = "moving"

    def make(self, d_in: int, d_out: int, seed: int = 0) -> bp.Device:
        return Ramp(bp.devices.LightModulator(d_in, d_out), 0.02)


@dataclass(frozen=True)
class Watched(Digits):
    """Digits whose schedule holds the rate at the drift."""

    def optimizers(self, model: nn.Module, steps: int) -> list[tuple[torch.optim.Optimizer, LRScheduler]]:
        adam = torch.optim.Adam(bp.param_groups(model, lr=self.lr, device_lr=self.device_lr))
        FOUND.append(DriftFloor(CosineAnnealingLR(adam, steps), model, every=3, follow=2.0))
        return [(adam, FOUND[-1])]


FOUND: list[DriftFloor] = []


def test_within_an_allowance_the_rate_of_theta_falls_to_the_floor_and_not_to_zero():
    task = Watched(epochs=1, device_lr=0.01)
    result = train(Trial(task, OracleReference(), Moving(), allowance=Allowance.of_batches(task, 14)))
    schedule = FOUND[-1]
    assert result["programmings"]["surrogate"] > 0
    assert max(schedule.floors) == pytest.approx(2 * 0.02 * 5 / 3, rel=0.5)  # 5 programmings in 3 steps
    rates = [group["lr"] for group in schedule.optimizer.param_groups]
    assert min(rates) < 1e-3  # of the digital parameters
    assert max(rates) == pytest.approx(max(schedule.floors), rel=0.5)
