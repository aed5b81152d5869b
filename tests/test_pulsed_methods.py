"""Training by pulses: the optimizer that sends them, and the laws of the methods."""

from __future__ import annotations

import copy
import io
import math
import warnings

import pytest
import torch
from torch import Tensor, nn

import blackprop as bp
from blackprop.core import Ledger, Pulse, Purpose, metered, run
from blackprop.core._packing import unpack
from blackprop.devices import PulsedCrossbar, cells
from blackprop.errors import ArgumentError, BudgetExhausted, IncompatibleError, PulseWarning
from blackprop.estimators import pulsed
from support import draw

IDEAL = {"step_spread": 0.0, "high_spread": 0.0, "low_spread": 0.0, "asymmetry_spread": 0.0}
QUIET = {**IDEAL, "noise": 0.0}
METHODS = {
    "analog-sgd": (pulsed.AnalogSGD, (1.0,)),
    "mixed-precision": (pulsed.MixedPrecision, (1.0,)),
    "tiki-taka": (pulsed.TikiTaka, (0.0, 1.0)),
    "tiki-taka-v2": (pulsed.TikiTakaV2, (0.0, 1.0)),
    "chopped": (pulsed.ChoppedTikiTaka, (0.0, 1.0)),
    "agad": (pulsed.AGAD, (0.0, 1.0)),
    "residual": (pulsed.ResidualLearning, (0.2, 1.0)),
    "filtered-residual": (pulsed.FilteredResidual, (0.2, 1.0)),
    "symmetric-point": (pulsed.SymmetricPointTracking, (0.0, 1.0)),
    "multi-tile": (pulsed.MultiTile, (0.04, 0.2, 1.0)),
}


def layer_of(
    method: pulsed.PulsedUpdate, gains=(1.0,), cell=None, d_in=6, d_out=4, **kwargs: object
) -> bp.PhysicalLayer:
    device = PulsedCrossbar(d_in, d_out, cell or cells.ConstantStep(**IDEAL), gains=gains, seed=1)
    generator = torch.Generator().manual_seed(0)
    return bp.PhysicalLayer(device, method, bp.surrogates.Reciprocal(), generator=generator, **kwargs)


def optimizer_of(model: nn.Module, lr: float = 0.05, device_lr: float = 0.05) -> bp.optim.Pulsed:
    return bp.optim.Pulsed(torch.optim.SGD(bp.param_groups(model, lr=lr, device_lr=device_lr)), model)


def matrix(layer: bp.PhysicalLayer) -> Tensor:
    return (layer.to_linear().weight / layer.gain).detach()


# The optimizer.


def test_a_step_moves_the_cells_down_the_gradient_by_the_rate_of_their_group():
    """The mean over many devices is `W − α Σ_b g_b x_bᵀ`."""
    x, g, total = draw(3, 6), 0.05 * draw(3, 4), torch.zeros(4, 6)
    for seed in range(40):
        device = PulsedCrossbar(6, 4, cells.ConstantStep(step=1e-4, **QUIET), initial=0.0, seed=seed)
        layer = bp.PhysicalLayer(device, pulsed.AnalogSGD(), bp.surrogates.Reciprocal())
        layer.scale.decided = True
        optimizer = optimizer_of(layer, device_lr=0.02)
        (layer(x) * g).sum().backward()
        optimizer.step()
        total += matrix(layer) / 40
    wanted = -0.02 * g.mT @ x
    assert float((total - wanted).norm() / wanted.norm()) < 0.08
    assert torch.equal(layer.theta, torch.ones(1))  # the gains stay


@pytest.mark.parametrize("name", METHODS)
def test_every_method_learns_a_regression_with_an_ordinary_loop(name):
    """Beside the same model with its device as drawn: a fifth of its loss or less."""
    make, gains = METHODS[name]
    generator = torch.Generator().manual_seed(0)
    goal = 0.3 * torch.randn(4, 6, generator=generator)
    options = {"chopped": {"transfer": 0.5}, "agad": {"transfer": 1.0, "chop": 0.1}, "symmetric-point": {"fast": 2.0}}
    layer = layer_of(make(**options.get(name, {})), gains, cells.ConstantStep(step=0.004, **IDEAL))
    optimizer = optimizer_of(layer, lr=0.0, device_lr=0.1)
    losses = []
    for _ in range(400):
        x = torch.randn(8, 6, generator=generator)
        optimizer.zero_grad()
        loss = (layer(x) - x @ goal.mT).square().sum(1).mean()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    first, last = (sum(some) / len(some) for some in (losses[:20], losses[-50:]))
    assert last < 0.5 * first, (first, last)
    assert layer.ledger.actions["pulse"] > 0


def test_scaled_clipped_and_accumulated_gradients_act_as_usual():
    """Pulses follow the gradient of θ: two halves are one batch; clipping to a half asks for half the steps."""
    x, g = draw(4, 6), 0.1 * draw(4, 4)

    def changed(train) -> Tensor:
        layer = layer_of(pulsed.MixedPrecision(), cell=cells.ConstantStep(step=1e-5, low=-2, high=2, **QUIET))
        layer.scale.decided = True
        layer.estimator.most = 10**6
        optimizer, before = optimizer_of(layer), matrix(layer)
        train(layer, optimizer)
        optimizer.step()
        return matrix(layer) - before

    def whole(layer, optimizer):
        (layer(x) * g).sum().backward()

    def halves(layer, optimizer):
        for part in (slice(0, 2), slice(2, 4)):
            (layer(x[part]) * g[part]).sum().backward()

    def half_as_large(layer, optimizer):
        whole(layer, optimizer)
        norm = float(layer.theta.grad.norm())
        nn.utils.clip_grad_norm_([layer.theta], norm / 2)

    def forgotten(how):
        def train(layer, optimizer):
            (layer(7 * x) * g).sum().backward()
            how(layer, optimizer)
            whole(layer, optimizer)

        return train

    wanted = changed(whole)
    assert float((wanted + 0.05 * g.mT @ x).abs().max()) < 2e-5
    torch.testing.assert_close(changed(halves), wanted, atol=2e-5, rtol=0)
    torch.testing.assert_close(changed(half_as_large), wanted / 2, atol=2e-5, rtol=0)
    for how in (
        lambda layer, optimizer: optimizer.zero_grad(),
        lambda layer, optimizer: optimizer.zero_grad(set_to_none=False),
        lambda layer, optimizer: layer.zero_grad(),
        lambda layer, optimizer: layer.zero_grad(set_to_none=False),
    ):
        torch.testing.assert_close(changed(forgotten(how)), wanted, atol=2e-5, rtol=0)
    assert not bool(changed(lambda layer, optimizer: None).any())


def test_a_gradient_that_pulses_cannot_follow_is_refused():
    layer = layer_of(pulsed.TikiTaka(), (0.3, 1.0))
    optimizer = optimizer_of(layer)
    layer(draw(4, 6)).square().sum().backward()
    layer.theta.grad[0] += 1.0
    with pytest.raises(ArgumentError, match="changed other than by a factor"):
        optimizer.step()


def test_what_the_optimizer_cannot_serve_is_refused():
    plain = bp.PhysicalLayer(bp.devices.Matrix(6, 4))
    with pytest.raises(ArgumentError, match="no layer that is trained by pulses"):
        optimizer_of(plain)
    layer = layer_of(pulsed.AnalogSGD())
    with pytest.raises(ArgumentError, match="lacks the θ of PulsedCrossbar"):
        bp.optim.Pulsed(torch.optim.SGD([layer.gain], lr=0.1), layer)
    with pytest.raises(ArgumentError, match="takes a torch optimizer"):
        bp.optim.Pulsed(None, layer)
    with pytest.raises(ArgumentError, match="no further parameters"):
        optimizer_of(layer).add_param_group({"params": [nn.Parameter(torch.ones(1))]})


@pytest.mark.parametrize(
    ("make", "device", "words"),
    [
        (pulsed.AnalogSGD, bp.devices.Matrix(6, 4), "does not declare the capability `pulse`"),
        (
            pulsed.TikiTaka,
            PulsedCrossbar(6, 4),
            r"needs 2 tiles \(a fast one and the main one\) .* has 1: give .*gains=",
        ),
        (pulsed.MultiTile, PulsedCrossbar(6, 4, gains=(1.0, 0.5)), "at least two tiles, from the finest to the main"),
    ],
)
def test_a_device_that_a_method_cannot_serve_is_refused(make, device, words):
    with pytest.raises(IncompatibleError, match=words):
        bp.PhysicalLayer(device, make(), bp.surrogates.Streaming())


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: pulsed.TikiTaka(fast=0.0), "fast=...\\)` must be positive"),
        (lambda: pulsed.TikiTakaV2(momentum=2.0), "momentum=...\\)` must be from 0 to 1"),
        (lambda: pulsed.MixedPrecision(every=0), "every=...\\)` must be a whole number from 1"),
        (lambda: pulsed.AGAD(chop=0.0), "without flips"),
    ],
)
def test_methods_that_cannot_be_are_refused(make, words):
    with pytest.raises(ArgumentError, match=words):
        make()


def test_cells_that_stand_still_are_said():
    layer = layer_of(pulsed.AnalogSGD())
    optimizer = optimizer_of(layer, device_lr=1e-9)

    def train(steps: int) -> None:
        for _ in range(steps):
            optimizer.zero_grad()
            layer(draw(2, 6)).sum().backward()
            optimizer.step()

    with pytest.warns(
        PulseWarning, match="pulses in all.*a learning rate .* times as large is the smallest that moves"
    ):
        train(20)
    alone = layer_of(pulsed.AnalogSGD())
    for _ in range(15):
        alone(draw(2, 6)).sum().backward()
    with pytest.warns(PulseWarning, match=r"no optimizer sends the pulses .*bp.optim.Pulsed"):
        alone(draw(2, 6)).sum().backward()
    optimizer.param_groups[-1]["lr"] = -1.0
    with pytest.raises(ArgumentError, match="must not be negative"):
        train(1)


def test_pulses_are_limited_by_the_budget_and_a_refused_step_changes_no_cell():
    budget = bp.Budget(pulse=100)
    layer = layer_of(pulsed.AnalogSGD(), budget=budget)
    optimizer, before = optimizer_of(layer, device_lr=1.0), matrix(layer)
    layer(draw(64, 6)).square().sum().backward()
    with pytest.raises(BudgetExhausted, match="of 100 pulse"):
        optimizer.step()
    assert torch.equal(matrix(layer), before)


@pytest.mark.parametrize("ended", ["step", "zero_grad"])
def test_a_matrix_is_not_read_or_written_while_pulses_wait(ended):
    """They belong to the weights before; a step sends them, and `zero_grad` drops them."""
    layer = layer_of(pulsed.AnalogSGD())
    optimizer = optimizer_of(layer)
    layer(draw(2, 6)).sum().backward()
    for use in (layer.to_linear, lambda: layer.approximate(draw(4, 6))):
        with pytest.raises(ArgumentError, match=r"a backward pass waits for its pulses.*call `optimizer.step\(\)`"):
            use()
    layer.eval()(draw(2, 6))  # an evaluation reads the weights as they are
    getattr(optimizer, ended)()
    layer.to_linear()
    layer.approximate(0.1 * draw(4, 6))


def test_a_copy_of_a_layer_waits_for_an_optimizer_of_its_own():
    layer = layer_of(pulsed.AnalogSGD())
    optimizer_of(layer)
    copied = copy.deepcopy(layer)
    copied(draw(2, 6)).sum().backward()
    assert (copied.estimator.attached, copied.estimator.kept) == (False, [])


@pytest.mark.parametrize("name", METHODS)
def test_a_resumed_training_is_bit_identical(name):
    """Cells, filters, signs, counters and all streams of random numbers."""
    make, gains = METHODS[name]

    def built() -> tuple[nn.Module, bp.optim.Pulsed]:
        torch.manual_seed(0)
        layer = layer_of(make(), gains, cells.RERAM_SB)
        model = nn.Sequential(nn.Linear(6, 6), layer)
        return model, optimizer_of(model)

    def train(model, optimizer, first, last):
        for step in range(first, last):
            x = draw(8, 6, seed=step)
            optimizer.zero_grad()
            model(x).square().sum().backward()
            optimizer.step()

    model, optimizer = built()
    train(model, optimizer, 0, 8)
    file = io.BytesIO()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, file)
    train(model, optimizer, 8, 14)
    other, again = built()
    file.seek(0)
    state = torch.load(file, weights_only=True)
    other.load_state_dict(state["model"])
    again.load_state_dict(state["optimizer"])
    train(other, again, 8, 14)
    assert torch.equal(matrix(model[1]), matrix(other[1]))
    mine, others = model.state_dict(), other.state_dict()
    extra = "1._extra_state"  # its ledger has one more programming, of the gains of a device that was switched on again
    assert [key for key in mine if key != extra and not torch.equal(mine[key], others[key])] == []
    for part in ("device", "generator"):
        saved, again = (unpack(each[extra])[part] for each in (mine, others))
        assert all(torch.equal(saved[name], again[name]) for name in saved if isinstance(saved[name], Tensor))


# The laws of the methods.


SOFT = cells.SoftBounds(step=1e-3, high=0.8, low=-0.8, **QUIET)


def scalars(
    method: pulsed.PulsedUpdate,
    gains,
    lr: float,
    steps: int,
    goal: float = 0.5,
    cell: cells.Cell = SOFT,
    count: int = 300,
) -> float:
    """The mean weight at which `f = (w − b)²/2` with unit noise in its gradient holds `count` cells."""
    device = PulsedCrossbar(1, count, cell, gains=gains, initial=0.0)
    spec, theta = device.declaration, torch.tensor(gains)
    method.bind(spec)
    generator = torch.Generator().manual_seed(1)
    measure, x, total = metered(device, Ledger()), torch.ones(1, 1), 0.0
    for step in range(steps):
        device.program(theta)
        w = device.read(x)
        run(
            method.update(x, w - goal + torch.randn(1, count, generator=generator), lr, theta, spec, generator), measure
        )
        if step >= steps // 2:
            total += float(w.mean()) / (steps - steps // 2)
    return total


def test_analog_sgd_is_dragged_to_the_symmetric_point_by_noise():
    """It stops at `b/(1 + E|∇f|/τ)`, 0.250 for b = 0.5, τ = 0.8 and unit noise."""
    assert scalars(pulsed.AnalogSGD(), (1.0,), 0.01, 1000) == pytest.approx(0.25, abs=0.01)


def test_residual_learning_comes_near_to_the_minimum():
    """P rests near 0 and takes the drag from W: at least 0.482 of 0.5, and the more the smaller α is."""
    far = scalars(pulsed.ResidualLearning(transfer=0.05), (0.3, 1.0), 0.01, 1000)
    near = scalars(pulsed.ResidualLearning(transfer=0.05), (0.3, 1.0), 0.00125, 3000)
    assert far < near
    assert near == pytest.approx(0.49, abs=0.008)


def test_mixed_precision_adds_up_without_loss():
    """`χ + g · pulses = −α Σ g xᵀ`, step by step."""
    layer = layer_of(pulsed.MixedPrecision(most=1000), cell=cells.ConstantStep(step=0.01, high=9, low=-9, **QUIET))
    layer.scale.decided = True
    optimizer, start, total = optimizer_of(layer, lr=0.0), matrix(layer), torch.zeros(4, 6)
    for step in range(20):
        x, g = draw(4, 6, seed=step), draw(4, 4, seed=100 + step)
        optimizer.zero_grad()
        (layer(x) * g).sum().backward()
        optimizer.step()
        total -= 0.05 * g.mT @ x
        torch.testing.assert_close(layer.estimator.chi + matrix(layer) - start, total, atol=1e-4, rtol=0)
        assert float(layer.estimator.chi.abs().max()) < 0.01


def regressed(method: pulsed.PulsedUpdate, gains: tuple[float, ...], steps: int = 60) -> tuple[bp.PhysicalLayer, float]:
    """The layer after so many steps, and the part of the loss that is left."""
    generator = torch.Generator().manual_seed(0)
    goal = 0.3 * torch.randn(4, 16, generator=generator)
    layer = layer_of(method, gains, cells.SoftBounds(step=0.02, **QUIET), d_in=16)
    optimizer = optimizer_of(layer, lr=0.0, device_lr=0.1)
    losses = []
    for _ in range(steps):
        x = torch.randn(8, 16, generator=generator)
        optimizer.zero_grad()
        loss = (layer(x) - x @ goal.mT).square().sum(1).mean()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return layer, sum(losses[-10:]) / sum(losses[:10])


def test_a_main_tile_moves_by_one_pulse_a_reading_of_its_column():
    """Tiki-Taka 2 cannot move a weight further than its readings: a short training needs several columns a step."""
    one, left = regressed(pulsed.TikiTakaV2(columns=1), (0.0, 1.0))
    several, less = regressed(pulsed.TikiTakaV2(columns=8), (0.0, 1.0))
    start = layer_of(pulsed.AnalogSGD(), cell=cells.SoftBounds(step=0.02, **QUIET), d_in=16, gains=(0.0, 1.0))
    most = float((matrix(one) - matrix(start)).abs().max())
    assert most <= 1.5 * 0.02 * math.ceil(60 / 16)
    assert float((matrix(several) - matrix(start)).abs().max()) > 2 * most
    assert less < 0.75 * left


def test_several_tiles_read_several_columns_at_a_time():
    slow, _ = regressed(pulsed.MultiTile(columns=1), (0.04, 0.2, 1.0), 20)
    fast, _ = regressed(pulsed.MultiTile(columns=6), (0.04, 0.2, 1.0), 20)
    assert slow.estimator.next == [10, 2]
    assert fast.estimator.next == [60 % 16, 12]
    assert fast.ledger.rows[Purpose.PARAMETER] == 6 * slow.ledger.rows[Purpose.PARAMETER] == 6 * 12


def test_a_followed_reference_halves_the_drag_of_an_offset():
    """A minimum at 0.2, between cells that rest at 0 or at −0.3: where they rest moves AGAD less than Tiki-Taka."""
    found = {}
    for offset in (0.0, 0.3):
        cell = cells.SoftBoundsReference(step=1e-3, high=0.8, low=-0.8, reference=offset, **QUIET)
        for method in (pulsed.TikiTakaV2(), pulsed.AGAD(chop=0.02, transfer=0.2)):
            w = scalars(method, (0.0, 1.0), 0.02, 1200, goal=0.2, cell=cell, count=100)
            found[type(method).__name__, offset] = w
    assert found["TikiTakaV2", 0.0] == pytest.approx(0.2, abs=0.1)
    assert found["AGAD", 0.0] == pytest.approx(0.2, abs=0.1)
    moved = {name: found[name, 0.0] - found[name, 0.3] for name in ("TikiTakaV2", "AGAD")}
    assert moved["TikiTakaV2"] > 0.2
    assert moved["AGAD"] < moved["TikiTakaV2"] / 2


def test_zero_shifting_leads_to_the_symmetric_point_and_reads_it():
    cell = cells.SoftBounds(step=0.005, high=1.0, low=-0.8, asymmetry=0.2, high_spread=0.1, low_spread=0.1, noise=0.1)
    device = PulsedCrossbar(6, 4, cell, gains=(0.0, 1.0), seed=2)
    point, ledger = device.cell.symmetric_point({k: v[0] for k, v in device._cells.items()}), Ledger()
    found = run(pulsed.shift_to_symmetric_point(device.declaration, 0, 2000), metered(device, ledger))
    assert float(point.abs().mean()) > 0.05
    torch.testing.assert_close(found, point, atol=0.02, rtol=0)
    assert (ledger.actions["pulse"], ledger.total_rows) == (2000, 6)
    with pytest.raises(ArgumentError, match="a tile from 0 to 1"):
        run(pulsed.shift_to_symmetric_point(device.declaration, 2), metered(device, Ledger()))


# The plan.


@pytest.mark.parametrize(
    ("gains", "kind"),
    [
        ((1.0,), pulsed.MixedPrecision),
        ((0.0, 1.0), pulsed.TikiTaka),
        ((0.2, 1.0), pulsed.ResidualLearning),
        ((0.04, 0.2, 1.0), pulsed.MultiTile),
    ],
)
def test_the_plan_chooses_by_the_tiles_and_prices_the_pulses(gains, kind):
    device = PulsedCrossbar(6, 4, gains=gains, cost=bp.Cost(row=1e-6, pulse=1e-7))
    plan = bp.plan(device, 8)
    assert isinstance(plan.estimator, kind)
    assert isinstance(plan.surrogate, bp.surrogates.Reciprocal)
    assert plan.price.step.actions["pulse"] > 0
    assert "bp.optim.Pulsed" in plan.reason
    layer = bp.PhysicalLayer(device)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        optimizer = optimizer_of(layer)
        layer(draw(8, 6)).square().sum().backward()
        optimizer.step()
    assert layer.ledger.actions["pulse"] < 10 * plan.price.first.actions["pulse"]
    assert device.declaration.has(Pulse)


def test_the_plan_keeps_to_a_budget_of_pulses():
    device = PulsedCrossbar(6, 4)
    assert bp.plan(device, 8, {"pulse": 0}, steps=10).name not in {"mixed-precision", "analog-sgd"}
