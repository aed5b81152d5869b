"""A layer around a device that declares nothing asks first, takes what suits the answer, and keeps to its allowance."""

from __future__ import annotations

import copy
import math
import re

import pytest
import torch
from torch import Tensor

import blackprop as bp
from blackprop.core import Purpose
from blackprop.devices import Declared, LightModulator, Microring, MZIMesh, Noisy, ScatteringMedium, ThreeSplitterMesh
from blackprop.errors import BudgetExhausted
from blackprop.estimators import ByOutput, FromSurrogate, HeldSubspace, RandomDirections, Still
from blackprop.planning import AskFirst, Family, Workload
from blackprop.planning.asking._asked import tell_allowance
from blackprop.surrogates import CalibratedResponse, PhaseMask
from support import draw


def undeclared(device: bp.Device, *, hidden: bool = False) -> Declared:
    size = device.theta.size
    order = torch.randperm(size, generator=torch.Generator().manual_seed(3)) if hidden else None
    found = Declared(device, period=device.theta.period, order=order)
    found.capabilities = ()
    return found


def tanh_network(d: int) -> bp.Device:
    mix = draw(d, d, seed=9)
    return bp.devices.from_callable(
        lambda x, t: ((x @ mix).tanh() @ t.view(d, d)).sin(),
        in_shape=d,
        out_shape=d,
        theta_size=d * d,
        initial=lambda g: torch.randn(d * d, generator=g),
    )


def layer_of(device: bp.Device, workload: Workload | None = None, seed: int = 0) -> bp.PhysicalLayer:
    layer = bp.PhysicalLayer(device, generator=torch.Generator().manual_seed(seed))
    assert isinstance(layer.surrogate, AskFirst)
    if workload is not None:
        layer.surrogate.workload = workload
    return layer


def backward(layer: bp.PhysicalLayer, step: int = 0, rows: int = 16) -> tuple[Tensor, Tensor]:
    """Both gradients of one batch."""
    layer.theta.grad = None
    x = draw(rows, *layer.in_shape, seed=step).requires_grad_()
    (layer(x) * draw(rows, *layer.out_shape, seed=90)).sum().backward()
    return layer.theta.grad, x.grad


def truth(layer: bp.PhysicalLayer, step: int = 0, rows: int = 16) -> tuple[Tensor, Tensor]:
    oracle = layer.device.declaration.oracle
    theta, x = layer.theta.detach().clone().requires_grad_(), draw(rows, *layer.in_shape, seed=step).requires_grad_()
    (layer.gain.detach() * oracle(x, theta) * draw(rows, *layer.out_shape, seed=90)).sum().backward()
    return theta.grad, x.grad


def cosine(a: Tensor, b: Tensor) -> float:
    return float(torch.cosine_similarity(a.flatten(), b.flatten(), dim=0))


@pytest.mark.parametrize(
    ("device", "family", "kind"),
    [
        (undeclared(LightModulator(20, 12)), Family.ELEMENT, CalibratedResponse),
        (undeclared(LightModulator(20, 12), hidden=True), Family.ELEMENT, CalibratedResponse),
        (undeclared(Microring(16, 16), hidden=True), Family.ELEMENT, CalibratedResponse),
        (ScatteringMedium(40, 12, seed=2), Family.MASK, PhaseMask),
    ],
    ids=["modulator", "modulator, wired at random", "rings, wired at random", "scattering medium"],
)
def test_both_gradients_are_those_of_the_device_once_it_was_asked(device: bp.Device, family: Family, kind: type):
    layer = layer_of(device)
    for step in range(3):
        found, right = backward(layer, step), truth(layer, step)
        assert cosine(found[0], right[0]) > 0.99
        assert cosine(found[1], right[1]) > 0.99
        with torch.no_grad():
            layer.theta += 0.1 * draw(layer.theta.numel(), seed=step)
    surrogate = layer.surrogate
    assert surrogate.finding.family is family
    assert surrogate.finding.sure
    assert isinstance(surrogate.inner, kind)
    assert isinstance(surrogate.estimator, FromSurrogate)
    assert layer.ledger.programmings[Purpose.CALIBRATE] > 0
    assert layer.ledger.rows[Purpose.PARAMETER] == 0
    for said in (family.value, surrogate.chosen):
        assert said in repr(layer)


def test_a_matrix_whose_parameters_have_no_place_gets_a_held_subspace_sized_for_its_allowance():
    layer = layer_of(undeclared(ThreeSplitterMesh(16, 12)), Workload(16, None, rows=20_000, programmings=200))
    backward(layer)
    estimator = layer.surrogate.estimator
    assert isinstance(estimator, HeldSubspace)
    assert estimator.length == pytest.approx(layer.surrogate.finding.length)
    steps = 0
    optimizer = bp.optim.SignalScaled(torch.optim.Adam([layer.theta], lr=1e-2), layer)
    layer.budget = bp.Budget(programmings=200 - layer.ledger.total_programmings)
    start = layer.theta.detach().clone()
    with pytest.raises(BudgetExhausted):
        while True:
            backward(layer, steps)
            optimizer.step()
            steps += 1
    assert estimator.hold <= steps + 1 <= 1.3 * estimator.hold, (steps, estimator)  # all of the allowance
    assert 0.1 * estimator.length < float((layer.theta - start).detach().square().mean().sqrt())


def test_an_unknown_device_is_perturbed_where_there_are_steps_and_left_alone_where_there_are_not():
    for workload, kind in (
        (None, RandomDirections),
        (Workload(16, None, rows=200_000, programmings=10_000), RandomDirections),
        (Workload(16, None, rows=3_000, programmings=60), Still),
    ):
        layer = layer_of(tanh_network(8), workload)
        grad, _ = backward(layer)
        assert layer.surrogate.finding.family is Family.OTHER
        assert isinstance(layer.surrogate.estimator, kind)
        assert bool(grad.any()) is (kind is RandomDirections)


def saturated() -> bp.Device:
    return bp.devices.from_callable(
        lambda x, t: (3 * x @ t.cos().view(8, 12).mT).tanh(), in_shape=12, out_shape=8, theta_size=96, period=6.2832
    )


def test_outputs_of_a_device_that_is_not_linear_are_credited_with_their_own_parameters():
    layer = layer_of(saturated(), Workload(16, None, rows=20_000, programmings=400))
    backward(layer)
    assert layer.surrogate.finding.family is Family.BLOCKS
    assert layer.surrogate.chosen == "complete-set"
    assert isinstance(layer.surrogate.estimator.credit, ByOutput)
    assert layer.surrogate.estimator.relative_variance(96) == 0
    few = layer_of(saturated(), Workload(16, None, rows=4_000, programmings=60))
    backward(few)
    assert isinstance(few.surrogate.estimator, Still)


def test_an_allowance_too_small_to_ask_is_said_and_a_quarter_is_never_passed():
    layer = layer_of(undeclared(LightModulator(20, 12)), Workload(16, None, rows=200, programmings=8))
    backward(layer)
    assert "too small" in repr(layer)
    assert layer.ledger.rows[Purpose.CALIBRATE] == 0
    assert not layer.surrogate.finding.sure
    # Enough for the three settings, and not for codes.
    layer = layer_of(undeclared(LightModulator(20, 12), hidden=True), Workload(16, None, rows=4_000, programmings=40))
    backward(layer)
    assert layer.surrogate.finding.family is Family.LINEAR
    assert layer.ledger.rows[Purpose.CALIBRATE] <= 1_000


@pytest.mark.parametrize("linear", [False, True], ids=["undeclared", "linear alone"])
@pytest.mark.parametrize("device", [LightModulator(20, 12), MZIMesh(16, 12)], ids=str)
def test_a_device_that_cannot_be_asked_stays_as_it_is_and_its_layer_trains_what_is_around_it(device, linear: bool):
    known = undeclared(device)
    known.linear = linear
    layer = layer_of(known, Workload(16, None, rows=400, programmings=20))
    layer.budget = bp.Budget(rows=400, programmings=20)
    theta, before = layer.theta.detach().clone(), torch.nn.Linear(10, layer.in_shape[0])
    optimizer = torch.optim.Adam([*before.parameters(), layer.theta], lr=1e-2)
    target, losses = draw(16, 12, seed=3), []
    for step in range(18):
        optimizer.zero_grad()
        loss = (layer(before(draw(16, 10, seed=1))) - target).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
        assert step == 0 or layer.ledger.rows[Purpose.CALIBRATE] <= layer.in_shape[0]  # the matrix, once
    assert torch.equal(layer.theta.detach(), theta)
    assert losses[-1] < 0.97 * losses[0]
    assert layer.surrogate.chosen == "frozen"
    for said in ("the allowance is too small to ask: 6 programmings", "chosen frozen"):
        assert said in repr(layer)


def test_layers_that_share_a_budget_plan_for_their_parts():
    layer = layer_of(undeclared(ThreeSplitterMesh(16, 12)))
    tell_allowance(layer.surrogate, 16, bp.Budget(rows=10_000, programmings=200))
    layer.budget = bp.Budget(rows=20_000, programmings=400)
    backward(layer)
    assert layer.surrogate.workload.limits["programmings"] == 200
    assert "200 programmings" in repr(layer)
    assert layer.surrogate.estimator.hold < 100


def test_a_budget_that_ends_the_inquiry_ends_no_training():
    layer = layer_of(undeclared(MZIMesh(12, 12)))
    layer.budget = bp.Budget(rows=60)
    tell_allowance(layer.surrogate, 16, layer.budget)
    backward(layer)
    assert layer.surrogate.finding is not None
    assert layer.ledger.total_rows <= 60


@pytest.mark.parametrize(
    ("device", "calibration"),
    [(undeclared(LightModulator(20, 12), hidden=True), 48), (undeclared(MZIMesh(12, 12)), 43), (tanh_network(8), 0)],
    ids=["wired at random", "mesh", "other"],
)
def test_it_asks_at_most_what_the_plan_says_and_the_plan_shows_it(device: bp.Device, calibration: int):
    plan = bp.plan(device, 16, steps=50)
    assert plan.name == "ask-first"
    (programmings, rows), *_ = re.findall(r"at most ([\d,]+) programmings and ([\d,]+) rows", str(plan))
    layer = bp.PhysicalLayer(device, *plan.method, generator=torch.Generator().manual_seed(0))
    backward(layer)
    spent, d_in = layer.ledger, device.declaration.d_in
    assert spent.programmings[Purpose.CALIBRATE] <= int(programmings) + calibration
    assert 0 < spent.rows[Purpose.CALIBRATE] <= int(rows.replace(",", "")) + calibration * d_in
    priced = int(programmings) + (calibration if "if it is a mesh" in str(plan) else 0)
    assert plan.price.first.programmings[Purpose.CALIBRATE] == priced


@pytest.mark.parametrize(
    "device",
    [
        undeclared(LightModulator(12, 8), hidden=True),
        undeclared(MZIMesh(12, 8)),
        ScatteringMedium(34, 8, seed=2),
        tanh_network(8),
    ],
    ids=["wired at random", "mesh", "scattering medium", "other"],
)
def test_a_checkpoint_holds_what_was_found_and_goes_on_as_it_would_have(device: bp.Device):
    layer = layer_of(device, Workload(16, 40))
    for step in range(2):
        backward(layer, step)
        with torch.no_grad():
            layer.theta += 0.02 * draw(layer.theta.numel(), seed=step)
    other = layer_of(copy.deepcopy(device), Workload(16, 40), seed=5)
    other.load_state_dict(layer.state_dict())
    assert str(other.surrogate.finding) == str(layer.surrogate.finding)
    for step in range(2, 5):
        for one, same in zip(backward(layer, step), backward(other, step), strict=True):
            assert torch.equal(one, same)
    assert other.ledger.rows == layer.ledger.rows
    fresh = layer_of(copy.deepcopy(device), seed=6)
    fresh.load_state_dict(bp.for_another_device(layer.state_dict()))
    assert fresh.surrogate.finding is None
    backward(fresh)
    assert fresh.surrogate.finding is not None


def test_read_noise_does_not_mislead_it():
    layer = layer_of(undeclared(Noisy(LightModulator(24, 16), read=0.03, seed=1), hidden=True))
    backward(layer)
    finding = layer.surrogate.finding
    assert finding.family is Family.ELEMENT
    assert finding.noise == pytest.approx(0.03, rel=0.35)
    assert math.isfinite(layer.residual or 0.0)


def test_coupling_that_is_declared_is_believed_and_linearity_alone_is_asked_about():
    layer = bp.PhysicalLayer(LightModulator(12, 8))
    assert not isinstance(layer.surrogate, AskFirst)
    linear = undeclared(LightModulator(12, 8), hidden=True)
    linear.linear = True
    layer = layer_of(linear)
    assert "declared linear" in layer.reason
    found, right = backward(layer), truth(layer)
    assert cosine(found[0], right[0]) > 0.99
    assert cosine(found[1], right[1]) > 0.99
    assert layer.surrogate.finding.family is Family.ELEMENT


def rows_declared(device: bp.Device, **declared: bool) -> Declared:
    return Declared(device, coupling=bp.Coupling.ROW, period=device.theta.period, **declared)


def mixed() -> bp.Device:
    """Outputs that have a block of parameters each, which are no elements."""
    mix = torch.linalg.qr(draw(12, 12, seed=4))[0]
    return bp.devices.from_callable(
        lambda x, t: x @ (t.cos().view(8, 12) @ mix).mT, in_shape=12, out_shape=8, theta_size=96, period=6.2832
    )


@pytest.mark.parametrize(
    ("device", "family", "chosen"),
    [
        (bp.devices.as_built(LightModulator(12, 8), seed=3, camera=True), Family.ELEMENT, "calibrated-16"),
        (rows_declared(LightModulator(12, 8), linear=True), Family.ELEMENT, "calibrated-16"),
        (rows_declared(mixed(), linear=True), Family.ROW, "remembered-by-output"),
        (rows_declared(mixed()), Family.ROW, "remembered-by-output"),
        (rows_declared(saturated()), Family.BLOCKS, "complete-set"),
    ],
    ids=["camera", "elements", "rows", "rows of unknown law", "saturated"],
)
def test_a_declaration_of_rows_leads_to_no_worse_a_method_than_none(device: bp.Device, family: Family, chosen: str):
    spent = []
    for known in (device, undeclared(device)):
        layer = layer_of(known, Workload(16, None, rows=40_000, programmings=800))
        backward(layer)
        assert layer.surrogate.finding.family is family
        assert layer.surrogate.chosen == chosen
        spent.append(layer.ledger.total_programmings)
    assert spent[0] <= spent[1]  # what is declared is not asked
    few = layer_of(device, Workload(16, None, rows=100, programmings=4))
    backward(few)
    assert "too small" in repr(few)
    assert few.ledger.rows[Purpose.CALIBRATE] == 0


def test_a_declaration_of_rows_survives_an_inquiry_that_sees_nothing():
    still = bp.devices.from_callable(
        lambda x, t: x[:, :8] * (1 + 0 * t.sum()), in_shape=12, out_shape=8, theta_size=96, period=6.2832
    )
    layer = layer_of(rows_declared(still), Workload(16, None, rows=40_000, programmings=800))
    backward(layer)
    assert layer.surrogate.finding.family is Family.ROW
    assert not layer.surrogate.finding.sure
    assert layer.surrogate.chosen == "remembered-by-output"


def test_a_dark_level_is_subtracted():
    camera = undeclared(bp.devices.as_built(LightModulator(20, 12), seed=3, camera=True), hidden=True)
    layer = layer_of(camera)
    for step in range(2):
        found, right = backward(layer, step), truth(layer, step)
        assert cosine(found[0], right[0]) > 0.99
        assert cosine(found[1], right[1]) > 0.99
    assert "above a dark level" in repr(layer)
    assert layer.residual < 0.05


class Changed(bp.devices.Wrapper):
    """Keeps to its family until it was asked; then its settings are displaced, or its outputs leak into the next."""

    jolt: Tensor | None = None
    leak = 0.0

    def _setting(self, theta: Tensor, fresh: bool) -> Tensor:
        del fresh
        return theta if self.jolt is None else theta + self.jolt

    def _sense(self, y: Tensor, purpose: Purpose) -> Tensor:
        del purpose
        return y + self.leak * y.roll(1, -1)


def trained(layer: bp.PhysicalLayer, steps: range) -> None:
    optimizer = torch.optim.Adam([layer.theta], lr=2e-2)
    for step in steps:
        backward(layer, step)
        optimizer.step()


def test_a_device_that_moves_after_it_was_asked_is_found_again():
    device = Changed(LightModulator(20, 12))
    layer = layer_of(undeclared(device))
    trained(layer, range(25))
    assert layer.surrogate.diagnosis()["moved"] == 0
    device.jolt = 0.5 * draw(240, seed=1)
    trained(layer, range(25, 60))
    assert layer.surrogate.diagnosis()["moved"] > 0
    assert layer.residual < 0.05
    layer.theta.grad = None
    found, _ = backward(layer, 60)
    leaf = (layer.theta.detach() + device.jolt).requires_grad_()
    y = layer.gain.detach() * LightModulator(20, 12).transfer(draw(16, 20, seed=60), leaf)
    (y * draw(16, 12, seed=90)).sum().backward()
    assert cosine(found, leaf.grad) > 0.99


def test_a_device_that_is_of_another_family_after_it_was_asked_is_said_to_be():
    device = Changed(LightModulator(20, 12))
    layer = layer_of(undeclared(device))
    trained(layer, range(25))
    assert layer.residual < 0.01
    device.leak = 0.3
    with pytest.warns(bp.errors.BlackpropWarning, match="the device has moved"):
        trained(layer, range(25, 60))
    assert layer.residual > 0.1


CHIP = bp.devices.Chip(bp.devices.chips.Rectangular(), 8, 8, seed=1)


def test_a_chip_is_calibrated_within_three_quarters_of_the_allowance_and_else_asked():
    for workload, chosen in (
        (None, "calibrated-chip"),
        (Workload(16, None, rows=2_000, programmings=60), "calibrated-chip"),
        (Workload(16, None, rows=1_400, programmings=60), "remembered"),
        (Workload(16, None, rows=2_000, programmings=40), "frozen"),  # three steps
    ):
        layer = layer_of(CHIP, workload)
        backward(layer)
        assert layer.surrogate.chosen == chosen
        if workload is not None:
            assert layer.ledger.total_programmings <= workload.programmings


def test_a_chip_that_its_design_does_not_explain_is_asked_in_place_of_trained_wrongly():
    class Other(bp.devices.Wrapper):
        """A mesh behind an unknown unitary: it is not of the design that it declares."""

        mix = torch.linalg.qr(draw(8, 8, seed=6))[0]

        def _sense(self, y: Tensor, purpose: Purpose) -> Tensor:
            del purpose
            return y @ self.mix

    layer = layer_of(Other(CHIP), Workload(16, None, rows=20_000, programmings=400))
    backward(layer)
    assert layer.surrogate.chosen == "held-subspace"
    assert "fresh readings unexplained" in repr(layer)
    spent = layer.ledger.total_programmings
    other = layer_of(Other(CHIP), Workload(16, 5), seed=4)
    other.load_state_dict(layer.state_dict())
    assert other.ledger.total_programmings == spent
    for one, same in zip(backward(layer, 3), backward(other, 3), strict=True):
        assert torch.equal(one, same)
