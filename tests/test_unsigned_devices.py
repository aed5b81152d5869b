"""Devices whose inputs have limits are checked, characterised and trained as any other, by the default plan."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

import blackprop as bp
from blackprop import surrogates
from blackprop.core import metered
from blackprop.devices._simulator import apply_matrix


class Unsigned(bp.devices.Simulator):
    """`y = A(θ) x`, or a saturating function of it, on inputs in limits that the device itself insists on."""

    stacks = True

    def __init__(
        self,
        d_in: int = 6,
        d_out: int = 4,
        low: float | None = 0.0,
        high: float | None = 1.0,
        *,
        linear: bool = True,
        coupling: bp.Coupling = bp.Coupling.ELEMENT,
    ) -> None:
        size = d_in * d_out
        theta = bp.ThetaSpec(size, lambda g: 2 * math.pi * torch.rand(size, generator=g), period=2 * math.pi)
        limits = {"x_low": low, "x_high": high}
        super().__init__(d_in, d_out, theta, linear=linear, coupling=coupling if linear else bp.Coupling.ROW, **limits)

    def transfer(self, x: Tensor, theta: Tensor, /) -> Tensor:
        y = apply_matrix(theta.cos().unflatten(-1, (*self.out_shape, *self.in_shape)) / self.in_shape[0] ** 0.5, x)
        return y if self.linear else torch.tanh(2 * y)

    def measure(self, queries: list[bp.Query], /) -> list[Tensor]:
        for query in queries:  # an instrument that refuses, in place of one that clips
            assert self.x_low is None or float(query.x.min()) >= self.x_low
            assert self.x_high is None or float(query.x.max()) <= self.x_high
        return super().measure(queries)


def laser() -> bp.Device:
    return Unsigned(low=0.0, high=None, coupling=bp.Coupling.ROW)


def modulator() -> bp.Device:
    """Amplitude modulators in front of a light modulator of phases."""
    return Unsigned(coupling=bp.Coupling.NONE)


def biased() -> bp.Device:
    """A laser that never goes dark."""
    return Unsigned(low=0.2, high=1.0)


def converter() -> bp.Device:
    """Inputs by a converter of 8 bits."""
    return bp.devices.Quantised(Unsigned(), input_bits=8)


def detector() -> bp.Device:
    return Unsigned(linear=False)


DEVICES = {
    "elements": Unsigned,
    "volts": lambda: Unsigned(low=-0.5, high=0.5),
    "laser": laser,
    "modulator": modulator,
    "biased": biased,
    "converter": converter,
    "nonlinear": detector,
    "differential": lambda: bp.devices.Differential(Unsigned()),
    "differential of a biased laser": lambda: bp.devices.Differential(biased()),
    "differential, nonlinear": lambda: bp.devices.Differential(detector()),
    "noisy": lambda: bp.devices.Noisy(Unsigned(), read=0.01),
    "renamed": lambda: bp.devices.Declared(Unsigned(), linear=True, order=torch.arange(24).flip(0)),
    "chained": lambda: bp.devices.Chain(Unsigned(6, 5), torch.sigmoid, Unsigned(5, 4)),
}


@pytest.mark.parametrize("kind", DEVICES)
def test_it_is_checked(kind):
    tolerance = 2e-2 if kind == "converter" else 1e-4
    noise = {"noise": 0.02} if kind == "noisy" else {}
    report = str(bp.testing.check_device(DEVICES[kind](), tolerance=tolerance, **noise))
    assert "takes rows at the limits of its inputs" in report


@pytest.mark.parametrize("kind", DEVICES)
def test_it_trains_by_the_default_plan(kind):
    """Between two digital layers, to a small part of the loss that is left where the device stays as it was."""
    losses = [_loss(DEVICES[kind](), device_lr) for device_lr in (3e-2, None)]
    assert losses[0] < 0.6 * losses[1], losses


def _loss(device: bp.Device, device_lr: float | None, steps: int = 120) -> float:
    generator = torch.Generator().manual_seed(0)
    spec = device.declaration
    low, high = (-1.0 if spec.x_low is None else spec.x_low), (1.0 if spec.x_high is None else spec.x_high)
    x = low + (high - low) * torch.rand(64, *spec.in_shape, generator=generator)
    wish = torch.randn(*spec.out_shape, *spec.in_shape, generator=generator) / 6**0.5
    target = 0.5 * torch.tanh(x @ wish.mT)
    layer = bp.PhysicalLayer(device, generator=torch.Generator().manual_seed(1))
    squeeze = nn.Parameter(torch.zeros(spec.in_shape))  # trains what stands before the device
    if device_lr is None:
        layer.theta.requires_grad_(False)
    groups = [{"params": [squeeze], "lr": 1e-2}]
    if device_lr is not None:
        groups += [{"params": [layer.theta], "lr": device_lr}]
    optimizer = torch.optim.Adam(groups)
    loss = torch.zeros(())
    for _ in range(steps):
        optimizer.zero_grad()
        sent = low + (x - low) * (squeeze + 3).sigmoid() if low >= 0 else x * (squeeze + 3).sigmoid()
        loss = (layer(sent) - target).square().mean()
        loss.backward()
        optimizer.step()
    return float(loss.detach())


@pytest.mark.parametrize(
    "surrogate",
    [
        lambda: surrogates.CalibratedResponse(8),
        surrogates.Streaming,
        surrogates.Frozen,
        lambda: surrogates.Reconstruction(4),
        lambda: surrogates.ProjectorSplitting(4, 6, probes=bp.directions.Orthogonal()),
        lambda: surrogates.BasisUpdate(4, 6, probes=bp.directions.Orthogonal()),
    ],
)
@pytest.mark.parametrize("kind", ["elements", "volts", "biased"])
def test_every_surrogate_learns_within_the_limits(surrogate, kind):
    device, made = DEVICES[kind](), surrogate()
    made.bind(device.declaration)
    generator = torch.Generator().manual_seed(0)
    theta = device.theta.draw(generator)
    measure = metered(device, bp.Ledger())
    bp.run(made.start(theta, generator), measure)
    matrix = theta.cos().view(4, 6) / 6**0.5
    grad = made.grad_x(torch.zeros(4, 6), torch.eye(4))
    assert float((grad - matrix).norm() / matrix.norm()) < 2e-2
    nudged = theta + 0.01
    if not isinstance(made, surrogates.Streaming | surrogates.Frozen):  # which follow by what training reads, or never
        bp.run(made.track(theta, nudged, generator), measure)
        matrix = nudged.cos().view(4, 6) / 6**0.5
        grad = made.grad_x(torch.zeros(4, 6), torch.eye(4))
        assert float((grad - matrix).norm() / matrix.norm()) < 2e-2


@pytest.mark.parametrize("kind", ["elements", "biased", "volts"])
def test_estimators_are_right_within_the_limits(kind):
    device = DEVICES[kind]()
    element = bp.estimators.ElementShift(step=0.01)
    bp.testing.check_estimator(element, device=device)
    contracted = bp.estimators.RandomDirections(4, contraction=bp.estimators.ProbeContraction(3))
    bp.testing.check_estimator(contracted, device=device, samples=400)
    bp.testing.check_estimator(bp.estimators.DirectionalMemory(4, size=64, rank=6), device=device, samples=400)


@pytest.mark.parametrize("kind", ["elements", "biased", "laser"])
def test_it_is_characterised(kind):
    device = DEVICES[kind]()
    found = bp.characterise(device, scale=0.5).declaration
    assert found.linear
    assert found.coupling is bp.Coupling.ELEMENT
    assert found.theta.period == pytest.approx(2 * math.pi, rel=1e-2)
    assert (found.x_low, found.x_high) == (device.x_low, device.x_high)
    assert not bp.characterise(detector(), scale=0.5).declaration.linear


def test_it_is_programmed_and_read_as_weights():
    layer = bp.PhysicalLayer.from_linear(nn.Linear(6, 4), Unsigned(), generator=torch.Generator().manual_seed(0))
    assert layer.conversion.error < 0.02
    x = torch.rand(5, 6)
    torch.testing.assert_close(layer.to_linear()(x), layer(x), rtol=1e-3, atol=1e-3)
    searched = bp.conversion.ByQueries(steps=60)
    layer = bp.PhysicalLayer.from_linear(nn.Linear(6, 4), modulator(), programmer=searched)
    assert layer.conversion.error < 0.9


class Clipping(Unsigned):
    """Says that its inputs go to 2, and clips them at 1."""

    def __init__(self, linear: bool = True) -> None:
        super().__init__(low=0.0, high=2.0, linear=linear, coupling=bp.Coupling.NONE)

    def transfer(self, x: Tensor, theta: Tensor, /) -> Tensor:
        return super().transfer(x.clamp(0, 1), theta)


class Undeclared(Clipping):
    """Says nothing of its limits."""

    def __init__(self) -> None:
        super().__init__(linear=False)
        self.x_low = self.x_high = None


def test_wrong_limits_are_said():
    with pytest.raises(bp.errors.ContractError, match=r"does it clip before|linear: measured off"):
        bp.testing.check_device(Clipping())
    assert "nothing changes between 1 and 2: is that limit right?" in str(bp.testing.check_device(Clipping(False)))
    assert "declare `x_low=0`" in str(bp.testing.check_device(Undeclared()))


def test_a_pair_of_rows_is_counted_priced_and_budgeted():
    inner = Unsigned(coupling=bp.Coupling.NONE)
    inner.cost = bp.Cost(row=1.0, programming=10.0)
    device = bp.devices.Differential(bp.devices.Noisy(inner))
    layer = bp.PhysicalLayer(device, budget=bp.Budget(rows=19))
    x = 2 * torch.rand(9, 6) - 1
    y = layer.eval()(x)
    torch.testing.assert_close(y, x @ (layer.theta.detach().cos().view(4, 6) / 6**0.5).mT)
    assert layer.ledger.total_rows == 18
    assert layer.ledger.lab_seconds == 18 + 10
    with pytest.raises(bp.errors.BudgetExhausted):
        layer(x[:1])
    assert layer.ledger.total_rows == 18
    plans = [bp.plan(each, 10).price.start.total_rows for each in (inner, device)]
    assert plans[1] < 2 * plans[0] + 1
    nested = bp.devices.Differential(bp.devices.Differential(inner))
    assert nested.rows_each == 4


def test_differential_keeps_what_it_can_of_a_declaration():
    device = bp.devices.Differential(Unsigned(low=0.2, high=1.0))
    assert (device.x_low, device.x_high) == (-0.8, 0.8)
    assert device.linear
    assert device.coupling is bp.Coupling.ELEMENT
    with pytest.raises(bp.errors.IncompatibleError, match=r"inputs that go above 0, and those of .* end at -1"):
        bp.devices.Differential(Unsigned(low=-2.0, high=-1.0))
    x = torch.tensor([[0.0, 0.3, -0.3, 0.0, 0.8, -0.8]], requires_grad=True)
    theta = device.theta.draw(torch.Generator().manual_seed(0))
    device.oracle()(x, theta)[0, 0].backward()  # at 0 too the slope is that of f
    torch.testing.assert_close(x.grad[0], theta.cos()[:6] / 6**0.5)


def test_rows_that_leave_the_limits_inside_a_chain_are_named():
    chain = bp.devices.Chain(Unsigned(6, 5), Unsigned(5, 4))
    with pytest.raises(bp.errors.LimitError, match=r"within Chain.*is outside the limits of the inputs of Unsigned"):
        bp.PhysicalLayer(chain, bp.estimators.RandomDirections(4), surrogates.Streaming())(torch.rand(3, 6))
