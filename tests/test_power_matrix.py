"""A matrix of fields that is read as power: exact without noise, and the default of such devices that fit no family."""

from __future__ import annotations

import math

import pytest
import torch

import blackprop as bp
from blackprop.core import metered
from blackprop.devices import Declared, MZIMesh, Noisy, Simulator
from blackprop.errors import ArgumentError, IncompatibleError
from blackprop.estimators import Still
from blackprop.planning import AskFirst, Family, Workload
from blackprop.surrogates import PowerMatrix
from blackprop.testing import check_surrogate
from support import draw


class Camera(Simulator):
    """`y = |U(θ) x|² + 0.1`, or of two fields that do not interfere where `mixed`."""

    def __init__(self, d_in: int, d_out: int, *, mixed: bool = False) -> None:
        self.mesh, self.parts = MZIMesh(d_in, d_out), 4 if mixed else 2  # real parts of fields
        self.phases = [math.pi * draw(self.mesh.theta.size, seed=seed) for seed in range(self.parts)]
        super().__init__(d_in, d_out, self.mesh.theta)

    def transfer(self, x: torch.Tensor, theta: torch.Tensor, /) -> torch.Tensor:
        fields = [self.mesh.transfer(x, theta + phases) for phases in self.phases]
        return 0.1 + torch.stack(fields).square().sum(0)


class Grid(Simulator):
    """Rows are no vectors."""

    def __init__(self) -> None:
        super().__init__((2, 2), (2, 2), MZIMesh(4, 4).theta)

    def transfer(self, x: torch.Tensor, theta: torch.Tensor, /) -> torch.Tensor:
        return x * theta[0]


def started(device: bp.Device, **settings) -> tuple[PowerMatrix, torch.Tensor, bp.Ledger]:
    surrogate, ledger = PowerMatrix(**settings), bp.Ledger()
    surrogate.bind(device.declaration)
    surrogate.input_rms = math.sqrt(device.declaration.d_in)
    generator = torch.Generator().manual_seed(0)
    theta = device.theta.draw(generator)
    bp.run(surrogate.start(theta, generator), metered(device, ledger))
    return surrogate, theta, ledger


def test_it_keeps_the_contract_of_surrogates():
    check_surrogate(PowerMatrix, device=Camera(8, 4), tolerance=2e-3)


@pytest.mark.parametrize(("d_in", "d_out"), [(4, 3), (16, 16), (32, 10)])
def test_without_noise_powers_and_gradients_are_exact(d_in: int, d_out: int):
    device = Camera(d_in, d_out)
    surrogate, theta, ledger = started(device)
    assert float(surrogate.residual) < 1e-3
    assert (ledger.total_rows, ledger.total_programmings) == (10 * d_in + 65, 1)
    x, g = draw(20, d_in, seed=3).requires_grad_(), draw(20, d_out, seed=4)
    y = device.transfer(x, theta)
    (wanted,) = torch.autograd.grad(y, x, g)
    assert float((surrogate.predict(x) - y).detach().norm() / y.detach().norm()) < 1e-3
    found = surrogate.grad_x(x.detach(), g)
    assert float((found - wanted).norm() / wanted.norm()) < 2e-3


def test_with_noise_the_residual_is_little_above_it_and_true():
    camera = Camera(32, 16)
    surrogate, theta, _ = started(Noisy(camera, read=0.01, seed=1))
    x = draw(200, 32, seed=3)
    y = camera.transfer(x, theta)
    error = float((surrogate.predict(x) - y).norm() / (y - 0.1).norm())
    assert error < float(surrogate.residual) < 0.03
    assert error < 0.02


def layer_of(device: bp.Device, workload: Workload | None = None) -> bp.PhysicalLayer:
    told = Declared(device, period=2 * math.pi)
    layer = bp.PhysicalLayer(told, generator=torch.Generator().manual_seed(0))
    if workload is not None:
        layer.surrogate.workload = workload
    layer(draw(16, device.declaration.d_in).requires_grad_()).square().sum().backward()
    return layer


def test_the_default_of_such_a_device_stays_as_it_is_and_says_so():
    layer = layer_of(Camera(16, 8), Workload(16, rows=20_000, programmings=200))
    asking = layer.surrogate
    assert isinstance(asking, AskFirst)
    assert asking.finding.family is Family.POWER
    assert asking.finding.sure
    assert isinstance(asking.inner, PowerMatrix)
    assert isinstance(asking.estimator, Still)
    assert "frozen, read as power" in repr(layer)
    other = bp.PhysicalLayer(Declared(Camera(16, 8), period=2 * math.pi), generator=torch.Generator().manual_seed(5))
    other.load_state_dict(layer.state_dict())
    x, grads = draw(4, 16, seed=9), []
    for one in (layer, other):
        sent = x.clone().requires_grad_()
        one(sent).sum().backward()
        grads.append(sent.grad)
    assert torch.equal(*grads)


def test_fields_that_do_not_interfere_are_not_taken_for_one():
    layer = layer_of(Camera(16, 8, mixed=True), Workload(16, rows=20_000, programmings=200))
    assert layer.surrogate.finding.family is Family.OTHER
    assert not isinstance(layer.surrogate.inner, PowerMatrix)


def test_an_allowance_that_is_too_small_is_said():
    layer = layer_of(Camera(16, 8), Workload(16, rows=700, programmings=200))
    assert layer.surrogate.finding.family is Family.OTHER
    assert "too small" in layer.surrogate.finding.why


def test_it_is_retrieved_again_where_theta_has_moved():
    device = Camera(8, 4)
    layer = bp.PhysicalLayer(device, Still(), PowerMatrix(), generator=torch.Generator().manual_seed(0))
    x = draw(16, 8)
    layer(x.clone().requires_grad_()).sum().backward()
    with torch.no_grad():
        layer.theta += 0.3
    layer(x.clone().requires_grad_()).sum().backward()
    y = device.transfer(x, layer.theta.detach())
    assert float((layer.surrogate.predict(x) - y).norm() / y.norm()) < 1e-3
    assert layer.ledger.rows[bp.Purpose.CALIBRATE] == 2 * (10 * 8 + 65)


def test_wrong_arguments_and_devices_are_refused():
    with pytest.raises(ArgumentError, match="rows"):
        PowerMatrix(rows=0)
    with pytest.raises(IncompatibleError, match="read as power"):
        bp.PhysicalLayer(Grid(), Still(), PowerMatrix())
