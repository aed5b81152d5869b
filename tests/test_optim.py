"""Steps by signal: exact gradients are followed, noise is not, and a device that is trained with it ends no worse."""

from __future__ import annotations

import copy
import io
import math
from statistics import fmean

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import blackprop as bp
from blackprop.errors import ArgumentError, CheckpointError
from blackprop.experiments import (
    Default,
    Digits,
    Existing,
    FrozenReference,
    Grid,
    Hardware,
    Imperfections,
    OracleReference,
    Paper,
    Row,
    Trial,
    compare,
)
from blackprop.experiments.engine._training import Training
from blackprop.experiments.records._run_folder import RunFolder
from blackprop.experiments.tasks._networks import DigitNetwork
from blackprop.optim import SignalScaled
from support import draw

NOISE = bp.estimators.RandomDirections(1, 1e-2)  # of thousands of parameters


def hybrid(width: int = 32, *method, seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    layer = bp.PhysicalLayer(
        bp.devices.LightModulator(width, width), *(method or bp.presets.oracle()), generator=generator
    )
    return nn.Sequential(nn.Linear(8, width), layer, nn.Linear(width, 8))


def optimizer_of(model: nn.Module, **rates) -> SignalScaled:
    groups = bp.param_groups(model, lr=rates.get("lr", 1e-3), device_lr=rates.get("device_lr", 1e-2))
    return SignalScaled(torch.optim.Adam(groups), model)


def step(model: nn.Module, optimizer, index: int) -> None:
    x = draw(16, 8, seed=index)
    optimizer.zero_grad()
    (model(x) - x.flip(1)).square().mean().backward()
    optimizer.step()


def trained(model: nn.Module, optimizer, steps: int, start: int = 0) -> nn.Module:
    for index in range(start, start + steps):
        step(model, optimizer, index)
    return model


def test_exact_gradients_are_followed_though_the_batches_differ():
    model = hybrid()
    optimizer = optimizer_of(model)
    weights = []
    for index in range(100):
        step(model, optimizer, index)
        weights += optimizer.weights
    assert fmean(weights) > 0.97
    assert min(weights) > 0.85


def test_noise_is_not_followed_and_its_share_is_the_estimators_law():
    model = hybrid(32, NOISE, bp.surrogates.Streaming())
    optimizer = optimizer_of(model)
    trained(model, optimizer, 60)
    share = 1 / (1 + NOISE.relative_variance(32 * 32))
    assert optimizer.weights[0] <= math.sqrt(19 * share / (1 + 18 * share)) + 1e-9
    assert optimizer.weights[0] < 0.15


def test_noise_that_no_law_foretells_is_measured():
    """Gradients said to be exact, and buried in noise: w goes to the error of the measurement."""

    class Buried(bp.estimators.Oracle):
        def grad_theta(self, x, theta, y, grad_y, spec, generator):
            grad = yield from super().grad_theta(x, theta, y, grad_y, spec, generator)
            return grad + 30 * grad.norm() * torch.randn(grad.shape, generator=generator) / math.sqrt(grad.numel())

    exact, buried = hybrid(64), hybrid(64, Buried(), bp.surrogates.Oracle())
    optimizers = [optimizer_of(model) for model in (exact, buried)]
    found = []
    for index in range(250):
        step(exact, optimizers[0], index)
        step(buried, optimizers[1], index)
        found.append([optimizer.weights[0] for optimizer in optimizers])
    exactly, noisily = torch.tensor(found[150:]).mean(0).tolist()
    assert exactly > 0.95
    assert noisily < 0.6


def test_the_step_is_the_inner_one_scaled_and_that_of_digital_parameters_untouched():
    model = hybrid(32, NOISE, bp.surrogates.Oracle())
    trained(model, optimizer_of(model), 1)
    plain, scaled = copy.deepcopy(model), model
    inner = torch.optim.SGD(plain.parameters(), lr=0.1)
    outer = SignalScaled(torch.optim.SGD(scaled.parameters(), lr=0.1), scaled)
    before = scaled[1].theta.detach().clone()
    step(plain, inner, 1)
    step(scaled, outer, 1)
    torch.testing.assert_close(scaled[1].theta - before, outer.weights[0] * (plain[1].theta - before))
    assert 0 < outer.weights[0] < 0.2
    for index in (0, 2):
        assert torch.equal(scaled[index].weight, plain[index].weight)


def test_a_device_that_is_nearly_all_there_is_to_train_is_left_alone():
    layer = bp.PhysicalLayer(bp.devices.LightModulator(8, 8), NOISE, bp.surrogates.Streaming())
    optimizer = optimizer_of(layer)
    trained(layer, optimizer, 5)
    assert optimizer.weights == [1.0]
    task = Digits()  # of its two devices the second is small beside its batch norm
    training = Training(Trial(task, Row(), Hardware.LIGHT_MODULATOR), task.data())
    assert isinstance(training.optimizers[0], SignalScaled)
    training.optimizers[0].step()
    assert training.optimizers[0].weights == [1.0, 1.0]


def test_a_step_that_would_be_all_noise_is_not_made():
    model = hybrid(64, NOISE, bp.surrogates.Oracle())  # one direction of 4,096
    before, weight = model[1].theta.detach().clone(), model[0].weight.detach().clone()
    optimizer = optimizer_of(model)
    trained(model, optimizer, 3)
    assert optimizer.weights == [0.0]
    assert torch.equal(model[1].theta, before)
    assert not torch.equal(model[0].weight, weight)


def test_a_frozen_device_costs_nothing_and_stays():
    model = hybrid()
    model[1].theta.requires_grad_(False)
    before = model[1].theta.clone()
    trained(model, optimizer_of(model), 3)
    assert torch.equal(model[1].theta, before)


# As torch's own optimizers.


def test_schedulers_scalers_and_closures_work_through_it():
    model = hybrid()
    optimizer = optimizer_of(model, lr=1.0, device_lr=2.0)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    x = draw(4, 8)
    scaler.scale(model(x).square().mean()).backward()
    scaler.step(optimizer)
    scaler.update()
    schedule.step()
    assert [group["lr"] for group in optimizer.inner.param_groups] == [0.5, 0.5, 1.0]  # weights, gains, θ
    theta = model[1].theta.detach().clone()
    scaler.scale(model(x).square().mean() * math.inf).backward()  # overflows: skipped
    scaler.step(optimizer)
    assert torch.equal(model[1].theta, theta)
    optimizer.zero_grad()
    assert model[1].theta.grad is None

    def closure():
        optimizer.zero_grad()
        loss = model(x).square().mean()
        loss.backward()
        return loss

    first = model(x).square().mean().item()
    assert optimizer.step(closure).item() == pytest.approx(first, rel=1e-5)


def test_a_saved_state_goes_on_bit_for_bit():
    def build():
        model = hybrid(32, bp.estimators.RandomDirections(30, 1e-2), bp.surrogates.Streaming())
        return model, optimizer_of(model)

    whole, optimizer = build()
    trained(whole, optimizer, 5)
    file = io.BytesIO()
    torch.save({"model": whole.state_dict(), "optimizer": optimizer.state_dict()}, file)
    trained(whole, optimizer, 5, start=5)
    other, other_optimizer = build()
    trained(other, other_optimizer, 2, start=20)  # whatever it did before is forgotten
    file.seek(0)
    state = torch.load(file, weights_only=True)
    other.load_state_dict(state["model"])
    other_optimizer.load_state_dict(state["optimizer"])
    schedule = torch.optim.lr_scheduler.StepLR(other_optimizer, 100)  # reaches the loaded groups
    trained(other, other_optimizer, 5, start=5)
    del schedule
    assert torch.equal(other[1].theta, whole[1].theta)
    assert other_optimizer.weights == optimizer.weights
    assert other_optimizer.state is other_optimizer.inner.state


def test_a_foreign_state_or_optimizer_is_refused():
    model = hybrid()
    optimizer = optimizer_of(model)
    for foreign in (torch.optim.Adam(model.parameters()).state_dict(), {**optimizer.state_dict(), "signal": {}}):
        with pytest.raises(CheckpointError, match="SignalScaled"):
            optimizer.load_state_dict(foreign)
    with pytest.raises(ArgumentError, match="scaled by its signal already"):
        SignalScaled(optimizer, model)
    with pytest.raises(ArgumentError, match="torch optimizer"):
        SignalScaled(model, model)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ArgumentError, match="theta of none"):
        SignalScaled(torch.optim.Adam(model[0].parameters()), model)
    with pytest.raises(ArgumentError, match="no further parameters"):
        optimizer.add_param_group({"params": [nn.Parameter(torch.zeros(2))]})


# What it is for.

TASK = Digits(network=DigitNetwork.HYBRID, epochs=4, batch_size=64, lr=1e-2, device_lr=0.1)


@pytest.fixture(scope="module")
def data():
    return TASK.data()


def accuracy(data, seed: int, estimator=None, scaled: bool = False, frozen: bool = False) -> float:
    """Of the digits after training among digital layers, the input gradient exact throughout."""
    cell = Trial(TASK, OracleReference(), Hardware.MICRORING, seed)
    model = cell.model()
    layer = model.get_submodule("2")
    assert isinstance(layer, bp.PhysicalLayer)
    layer.estimator = estimator or layer.estimator
    layer.theta.requires_grad_(not frozen)
    optimizer = torch.optim.Adam(bp.param_groups(model, lr=TASK.lr, device_lr=TASK.device_lr))
    optimizer = SignalScaled(optimizer, model) if scaled else optimizer
    steps = len(data.x_train) // TASK.batch_size
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps * TASK.epochs)
    for epoch in range(TASK.epochs):
        for batch in torch.randperm(len(data.x_train), generator=cell.order(epoch)).split(TASK.batch_size)[:steps]:
            optimizer.zero_grad()
            F.cross_entropy(model(data.x_train[batch]), data.y_train[batch]).backward()
            optimizer.step()
            schedule.step()
    model.eval()
    with torch.no_grad():
        return float((model(data.x_test).argmax(1) == data.y_test).double().mean())


def test_training_a_device_with_noise_ends_below_frozen_and_scaled_by_its_signal_it_does_not(data):
    seeds = range(3)
    frozen = fmean(accuracy(data, seed, frozen=True) for seed in seeds)
    noisy = fmean(accuracy(data, seed, NOISE) for seed in seeds)
    scaled = fmean(accuracy(data, seed, NOISE, scaled=True) for seed in seeds)
    assert noisy < frozen - 0.03
    assert scaled > frozen - 0.01


def test_the_gain_of_an_exact_gradient_is_kept(data):
    plain, scaled = (accuracy(data, 0, scaled=scaled) for scaled in (False, True))
    assert scaled >= plain - 0.01
    assert scaled > accuracy(data, 0, frozen=True) + 0.02


def test_recipes_scale_all_but_the_references_and_the_published_method(data):
    for method, scaled in (
        (Default(), True),
        (Row(), True),
        (OracleReference(), False),
        (FrozenReference(), False),
        (Paper(), False),
    ):
        training = Training(Trial(TASK, method, Hardware.MICRORING), data)
        assert isinstance(training.optimizers[0], SignalScaled) == scaled


class Stops:
    """Watches, and interrupts at an optimizer step, if told to."""

    def __init__(self, at: int | None = None) -> None:
        self.at = at

    def step(self, progress):
        if progress["step"] == self.at:
            raise KeyboardInterrupt

    def evaluated(self, line):
        pass

    def finished(self, result):
        pass


def test_a_scaled_run_that_was_interrupted_ends_as_if_it_had_not_been(tmp_path):
    task = Digits(network=DigitNetwork.HYBRID, epochs=3, batch_size=256)
    grid = Grid(task, (Row(count=1, probes=4),), (Hardware.MICRORING,), imperfections=Imperfections(read_noise=0.02))
    compare(grid, tmp_path / "whole", Stops())
    with pytest.raises(KeyboardInterrupt):
        compare(grid, tmp_path / "cut", Stops(at=8))
    compare(grid, tmp_path / "cut", Stops(), Existing.RESUME)
    whole, cut = (RunFolder(tmp_path / name) for name in ("whole", "cut"))
    for ours, theirs in zip(whole.metrics(), cut.metrics(), strict=True):
        assert {**ours, "seconds": 0} == {**theirs, "seconds": 0}
    states = [folder.checkpoint()["optimizers"][0]["signal"] for folder in (whole, cut)]
    assert torch.equal(states[0]["latest"], states[1]["latest"])
    assert torch.equal(states[0]["_extra_state"], states[1]["_extra_state"])
