"""Coupled modes: the steady state against the motion in time, its derivative, and drives at which there is none."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import blackprop as bp
from blackprop.core import Fields, Query
from blackprop.devices import CoupledModes
from blackprop.devices.photonic import _steady_state
from blackprop.errors import ArgumentError, ReadingError, SecondDerivativeError
from blackprop.testing import check_device
from support import draw


def setting(device: CoupledModes, seed: int = 0) -> Tensor:
    return device.theta.draw(torch.Generator().manual_seed(seed)).double()


def velocity(device: CoupledModes, theta: Tensor, a: Tensor, drive: Tensor) -> Tensor:
    """ȧ, written once more in complex numbers."""
    coupled = a @ device.matrix(theta).to(a.dtype)
    turn = 1j * coupled + 1j * device.kerr * a.abs().square() * a
    return -device.kappa / 2 * a - turn - math.sqrt(device.kappa) * drive


def raised(device: CoupledModes, theta: Tensor, drive: Tensor) -> Tensor:
    """The fields after the drive was raised slowly, integrated in time by the classical Runge-Kutta method."""
    a, step, rise = torch.zeros_like(drive), 0.1 / device.kappa, 600

    for n in range(rise + 500):

        def at(now: Tensor, part: float, n: int = n) -> Tensor:
            return velocity(device, theta, now, min(1.0, (n + part) / rise) * drive)

        k1 = at(a, 0.0)
        k2 = at(a + step / 2 * k1, 0.5)
        k3 = at(a + step / 2 * k2, 0.5)
        a = a + step / 6 * (k1 + 2 * k2 + 2 * k3 + at(a + step * k3, 1.0))
    return a


def fields(device: CoupledModes, theta: Tensor, drive: Tensor) -> Tensor:
    device.program(theta)
    read = device.read_fields(torch.stack((drive.real, drive.imag), 1))
    return torch.complex(read[:, 0], read[:, 1])


@pytest.mark.parametrize(("kappa", "kerr"), [(1.0, 0.0), (1.0, 0.05), (2.0, 0.4), (0.5, 0.01)])
def test_the_steady_state_is_where_the_motion_ends(kappa, kerr):
    device = CoupledModes(2, 1, kappa=kappa, kerr=kerr)
    theta, drive = setting(device), torch.complex(*draw(2, 4, 3, seed=1, dtype=torch.float64))
    a = fields(device, theta, drive)
    assert float(velocity(device, theta, a, drive).abs().max()) < 1e-13 * float(a.abs().max())
    torch.testing.assert_close(a, raised(device, theta, drive), rtol=1e-6, atol=1e-6)


def test_readings_are_the_outgoing_fields_of_the_last_modes():
    device = CoupledModes(2, 3, kappa=1.7, kerr=0.1)
    x, theta = draw(4, 2, dtype=torch.float64), setting(device)
    drive = torch.nn.functional.pad(x, (0, 3)).to(torch.complex128)
    expected = (drive + math.sqrt(1.7) * fields(device, theta, drive)).real[:, 2:]
    torch.testing.assert_close(device.transfer(x, theta), expected)
    low = device.transfer(x.float(), theta.float())
    assert low.dtype == torch.float32
    torch.testing.assert_close(low.double(), expected, rtol=1e-5, atol=1e-6)


def test_a_mode_may_be_both_input_and_output():
    device = CoupledModes(3, 3, modes=3, edges=[(0, 0), (2, 1)])
    theta, x = torch.tensor([0.5, -0.3], dtype=torch.float64), draw(2, 3, dtype=torch.float64)
    J = torch.tensor([[0.5, 0, 0], [0, 0, -0.3], [0, -0.3, 0]], dtype=torch.float64)
    assert torch.equal(device.matrix(theta), J)
    response = torch.linalg.inv(0.5 * torch.eye(3) + 1j * J)
    torch.testing.assert_close(device.transfer(x, theta), x @ (torch.eye(3) - response).real)


@pytest.mark.parametrize("kerr", [0.0, 0.2])
def test_its_derivative_is_exact_and_taken_once(kerr):
    device = CoupledModes(2, 2, modes=3, kerr=kerr, kappa=1.3)
    theta, x = setting(device).requires_grad_(), draw(3, 2, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(device.transfer, (x, theta))
    stacked = torch.stack([theta.detach(), theta.detach() / 2]).requires_grad_()
    assert torch.autograd.gradcheck(device.transfer, (x, stacked))
    if kerr:
        with pytest.raises(SecondDerivativeError):
            torch.autograd.grad(device.transfer(x, theta).sum(), theta, create_graph=True)


def test_many_rows_and_settings_are_answered_as_each_alone(monkeypatch):
    device = CoupledModes(3, 2, kerr=0.1)
    x, thetas = draw(7, 3, dtype=torch.float64), torch.stack([setting(device, seed) for seed in range(3)])
    whole = device.transfer(x, thetas)
    monkeypatch.setattr(_steady_state, "CHUNK_BYTES", 2 * 4 * 25 * 8)  # two rows at a time
    torch.testing.assert_close(device.transfer(x, thetas), whole)
    for theta, y in zip(thetas, whole, strict=True):
        torch.testing.assert_close(torch.cat([device.transfer(row[None], theta) for row in x]), y)
    queries = [Query(x[: n + 1], theta, bp.Purpose.FORWARD) for n, theta in enumerate(thetas)]
    for n, y in enumerate(device.measure(queries)):
        torch.testing.assert_close(y, whole[n, : n + 1])


def test_the_iteration_for_weak_fields_and_newtons_method_find_the_same_state_and_derivative(monkeypatch):
    device, x = CoupledModes(3, 2, kerr=0.03), draw(7, 3, dtype=torch.float64)

    def found() -> list[Tensor]:
        theta, rows = setting(device).requires_grad_(), x.clone().requires_grad_()
        y = device.transfer(rows, theta)
        return [y, *torch.autograd.grad(y.sin().sum(), (rows, theta))]

    iterated = found()
    real = _steady_state._contracted
    asked: list[float] = []

    def newton_alone(advance, a: Tensor, tolerance: float) -> tuple[Tensor, Tensor]:
        asked.append(tolerance)
        a, done = real(advance, a, tolerance)
        return a, done & (tolerance > 1e-12)  # that of Newton's method

    monkeypatch.setattr(_steady_state, "_contracted", newton_alone)
    torch.testing.assert_close(found(), iterated, rtol=1e-10, atol=1e-12)
    assert min(asked) < 1e-12 < max(asked)


BISTABLE = CoupledModes(1, 1, modes=1, edges=[(0, 0)], kerr=1.0)  # at a detuning below −√3/2 κ


def test_a_drive_beyond_a_fold_is_refused_and_one_below_it_is_followed():
    theta = torch.tensor([-2.0], dtype=torch.float64)
    # κ²/4 + (Δ + g n)² = κ in²/n: the branch from 0 ends where the drive is largest along it.
    n = torch.linspace(1e-3, 2.0, 200_001, dtype=torch.float64)
    drives = (n * (0.25 + (n - 2.0).square())).sqrt()
    end = int((drives.diff() < 0).nonzero()[0])
    below, beyond = drives[end] * 0.999, drives[end] * 1.001
    a = fields(BISTABLE, theta, below.view(1, 1).to(torch.complex128))
    assert float(a.abs().square()) == pytest.approx(float(n[: end + 1][drives[: end + 1] <= below][-1]), rel=1e-3)
    with pytest.raises(ReadingError, match="do not settle"):
        fields(BISTABLE, theta, beyond.view(1, 1).to(torch.complex128))
    with pytest.raises(ReadingError, match="lower the drive"):
        BISTABLE.read(beyond.view(1, 1))
    assert BISTABLE.read(below.view(1, 1)).isfinite().all()


@pytest.mark.parametrize("modes", [3, 4])
def test_where_the_modes_oscillate_they_are_refused_and_where_not_they_end_there(modes):
    device = CoupledModes(modes - 1, 1, modes=modes, kerr=0.5)
    thetas = torch.stack([4 * setting(device, seed) for seed in range(20)])
    drives = 3 * torch.complex(*draw(2, 20, 1, modes, seed=1, dtype=torch.float64))
    ends = raised(device, thetas, drives)
    restless = velocity(device, thetas, ends, drives).abs().amax((1, 2)) > 0.1
    assert restless.any()
    accepted = 0
    for theta, drive, end, moves in zip(thetas, drives, ends, restless, strict=True):
        try:
            a = fields(device, theta, drive)
        except ReadingError:
            continue
        assert not moves
        torch.testing.assert_close(a, end, rtol=1e-2, atol=1e-2)  # weakly damped, some still come to rest
        accepted += 1
    assert accepted


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"modes": 1}, "modes"),
        ({"kappa": 0.0}, "kappa"),
        ({"kerr": -0.1}, "kerr"),
        ({"kerr": math.nan}, "kerr"),
        ({"edges": [(0, 1), (1, 0)]}, "each pair once"),
        ({"edges": [(0, 5)]}, "modes 0 to 4"),
        ({"edges": []}, "edges"),
        ({"edges": [3]}, "takes pairs of modes"),
    ],
    ids=str,
)
def test_wrong_arguments_are_refused(wrong, words):
    with pytest.raises(ArgumentError, match=words):
        CoupledModes(3, 2, **wrong)


@pytest.mark.parametrize("kerr", [0.0, 0.02])
@pytest.mark.parametrize("kappa", [1.0, 3e9])
def test_it_keeps_its_contract(kerr, kappa):
    device = CoupledModes(4, 3, kerr=kerr * kappa**2, kappa=kappa)
    scale = 1.0 if kappa == 1.0 else 0.01
    claims = dict(check_device(device, scale=scale).claims)
    assert float(claims["fields give the gradient"].split()[-1]) < 0.05
    assert device.declaration.linear == (kerr == 0)
    assert device.declaration.has(Fields)
    with pytest.raises(ArgumentError, match="programmed before it is read"):
        CoupledModes(4, 3).read_fields(torch.zeros(1, 2, 7))
