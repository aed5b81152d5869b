"""Meshes in compiled code: readings and gradients of the plain path, and that path wherever it has to serve."""

from __future__ import annotations

import subprocess
import sys
import warnings

import pytest
import torch

import blackprop as bp
from blackprop.devices import ImperfectMZIMesh, ImperfectThreeSplitterMesh, MZIMesh, ThreeSplitterMesh
from blackprop.devices.photonic.compiled import _mesh
from support import draw

KINDS = [MZIMesh, ThreeSplitterMesh, ImperfectMZIMesh, ImperfectThreeSplitterMesh]
compiled = pytest.mark.skipif(_mesh._passes(_mesh.TILE, False) is None, reason="needs Numba: the extra `fast`")


def plain(device):
    return lambda x, theta: device._plain(x, device._numbers(theta))


def gradients(map_, x, theta, dtype):
    x, theta = (each.detach().to(dtype).requires_grad_() for each in (x, theta))
    y = map_(x, theta)
    y.backward(draw(*y.shape, seed=5).to(dtype))
    return y.detach(), x.grad, theta.grad


@pytest.fixture
def calls(monkeypatch):
    """The tiles of the passes that compiled code has served."""
    seen, call = [], _mesh._call
    monkeypatch.setattr(_mesh, "_call", lambda tile, *rest: seen.append(tile) or call(tile, *rest))
    return seen


@compiled
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sizes", [(2, 2), (5, 4), (6, 8), (33, 20)], ids=str)
@pytest.mark.parametrize(
    ("rows", "settings", "own"), [(1, (), False), (19, (), False), (7, (3,), False), (17, (3,), True)]
)
def test_readings_and_both_gradients_are_those_of_the_plain_path(kind, sizes, rows, settings, own, calls):
    device = kind(*sizes)
    theta, x = 3 * draw(*settings, device.theta.size, seed=1), draw(*(settings if own else ()), rows, sizes[0])
    found = gradients(device.transfer, x, theta, torch.float32)
    assert len(calls) == 2
    exact = gradients(plain(device), x, theta, torch.float64)
    assert len(calls) == 2  # not by compiled code
    for ours, wanted in zip(found, exact, strict=True):
        assert ours.shape == wanted.shape
        assert float((ours - wanted).abs().max()) <= 2e-5 * float(wanted.abs().max().clamp_min(1))


@compiled
@pytest.mark.parametrize("kind", [MZIMesh, ImperfectMZIMesh])
def test_a_large_mesh_walks_back_without_loss_of_precision(kind, calls):
    device, rows = kind(512, 512), 70
    theta, x = device.theta.draw(torch.Generator().manual_seed(0)), draw(rows, 512)
    found = gradients(device.transfer, x, theta, torch.float32)
    assert calls == [_mesh.LARGE] * 2
    light = device.oracle()
    step, h = draw(device.theta.size, seed=3), 1e-4
    ends = [light(x.double(), theta.double() + sign * h * step.double()) for sign in (1, -1)]
    slope = float(((ends[0] - ends[1]) / (2 * h) * draw(rows, 512, seed=5)).sum())
    assert float(found[2].double() @ step.double()) == pytest.approx(slope, rel=1e-3)
    assert float((found[0] - (ends[0] + ends[1]) / 2).abs().max()) < 2e-5 * float(found[0].abs().max())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("settings", [(), (2,)])
def test_rows_that_outnumber_the_inputs_meet_the_matrix(kind, settings):
    device = kind(6, 5)
    theta, x = 3 * draw(*settings, device.theta.size, seed=1), draw(40, 6)
    found = gradients(device.transfer, x, theta, torch.float64)
    for ours, wanted in zip(found, gradients(plain(device), x, theta, torch.float64), strict=True):
        torch.testing.assert_close(ours, wanted, rtol=1e-10, atol=1e-10)


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")  # PyTorch's own, in forward mode
@pytest.mark.parametrize("kind", [MZIMesh, ImperfectThreeSplitterMesh])
def test_derivatives_of_other_kinds_are_those_of_the_plain_path(kind):
    device, x = kind(6, 4), draw(3, 6)
    theta, way = device.theta.draw(torch.Generator().manual_seed(0)), draw(device.theta.size, seed=2)
    exact = plain(device)
    for of in (torch.func.jacrev, torch.func.jacfwd):
        ours, wanted = (of(lambda t, map_=map_: map_(x, t))(theta) for map_ in (device.transfer, exact))
        torch.testing.assert_close(ours, wanted, rtol=1e-4, atol=1e-5)
    many = torch.stack((theta, theta + way))
    ours = torch.func.vmap(device.transfer, in_dims=(None, 0))(x, many)
    torch.testing.assert_close(ours, exact(x, many), rtol=1e-4, atol=1e-5)
    _, along = torch.autograd.functional.jvp(lambda t: device.transfer(x, t), theta, way)
    torch.testing.assert_close(along, torch.func.jacrev(lambda t: exact(x, t))(theta) @ way, rtol=1e-3, atol=1e-4)
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(theta, way)
        along = torch.autograd.forward_ad.unpack_dual(device.transfer(x, dual)).tangent
    torch.testing.assert_close(along, torch.func.jacrev(lambda t: exact(x, t))(theta) @ way, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_a_second_derivative_is_that_of_the_plain_path(kind):
    device, x = kind(4, 4), draw(3, 4)
    theta, found = device.theta.draw(torch.Generator().manual_seed(0)), []
    for map_ in (device.transfer, plain(device)):
        t, r = theta.clone().requires_grad_(), x.clone().requires_grad_()
        first = torch.autograd.grad(map_(r, t).square().sum(), (r, t), create_graph=True)
        found.append(torch.autograd.grad(sum(each.square().sum() for each in first), (r, t)))
    for ours, wanted in zip(*found, strict=True):
        torch.testing.assert_close(ours, wanted, rtol=1e-3, atol=1e-3)


def test_a_gradient_may_be_taken_twice_and_for_one_argument_alone():
    device, x = ImperfectMZIMesh(6, 4), draw(3, 6)
    theta = device.theta.draw(torch.Generator().manual_seed(0)).requires_grad_()
    y = device.transfer(x, theta).square().sum()
    first, second = (torch.autograd.grad(y, theta, retain_graph=True)[0] for _ in range(2))
    assert torch.equal(first, second)
    rows = x.clone().requires_grad_()
    (alone,) = torch.autograd.grad(device.transfer(rows, theta.detach()).square().sum(), rows)
    torch.testing.assert_close(alone, gradient_by_matrix(device, x, theta.detach()), rtol=1e-4, atol=1e-5)


def gradient_by_matrix(device, x, theta):
    matrix = device._plain(torch.eye(6), device._numbers(theta)).mT
    return 2 * (x @ matrix.mT) @ matrix


@compiled
def test_the_hidden_errors_have_their_gradients_in_compiled_code(calls):
    device, x = ImperfectMZIMesh(6, 4), draw(3, 6)
    theta = device.theta.draw(torch.Generator().manual_seed(0))
    found = []
    for dtype in (torch.float32, torch.float64):
        offset, errors = (each.to(dtype).requires_grad_() for each in (device.offset, device.errors))
        y = device.transfer_with(x.to(dtype), theta.to(dtype), offset, errors)
        found.append(torch.autograd.grad(y.square().sum(), (offset, errors)))
    assert len(calls) == 2
    for ours, wanted in zip(*found, strict=True):
        torch.testing.assert_close(ours.double(), wanted, rtol=1e-4, atol=1e-4)


@compiled
def test_rows_that_are_not_contiguous_or_not_finite_are_served(calls):
    device = MZIMesh(6, 4)
    theta, x = draw(device.theta.size), draw(6, 9)
    torch.testing.assert_close(device.transfer(x.mT, theta), plain(device)(x.mT, theta), rtol=1e-4, atol=2e-5)
    wide = draw(2 * device.theta.size)[::2]
    torch.testing.assert_close(device.transfer(x.mT, wide), plain(device)(x.mT, wide), rtol=1e-4, atol=2e-5)
    assert len(calls) == 2
    bad = x.mT.clone()
    bad[1, 2] = float("nan")
    y = device.transfer(bad, theta)
    assert bool(y[1].isnan().any())
    assert bool(y[[0, 2, 3]].isfinite().all())
    assert device.transfer(x[:, :0].mT, theta).shape == (0, 4)


def test_a_numba_that_fails_is_named_once_and_the_plain_path_serves():
    code = """
import sys, types, warnings
numba = types.ModuleType("numba")
def njit(**options):
    def wrap(function):
        def fails(*args): raise RuntimeError("no such target")
        return fails
    return wrap
numba.njit = njit
sys.modules["numba"] = numba
import torch, blackprop as bp
device = bp.devices.MZIMesh(6, 4)
x, theta = torch.randn(3, 6), device.theta.draw(torch.Generator().manual_seed(0))
with warnings.catch_warnings(record=True) as seen:
    warnings.simplefilter("always")
    for kind in (bp.devices.MZIMesh, bp.devices.ThreeSplitterMesh):
        for _ in range(2):
            y = kind(6, 4).transfer(x, theta)
assert [w.category for w in seen] == [bp.errors.BlackpropWarning], seen
assert "no such target" in str(seen[0].message)
assert float((y - kind(6, 4)._plain(x, theta.view(-1, 2))).abs().max()) == 0
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_without_numba_there_is_no_warning(monkeypatch):
    monkeypatch.setitem(sys.modules, "numba", None)
    monkeypatch.delitem(sys.modules, "blackprop.devices.photonic.compiled._loops", raising=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert _mesh._passes.__wrapped__(_mesh.TILE, True) is None


def test_a_layer_trains_the_same_with_and_without_compiled_code(monkeypatch):
    def train():
        torch.manual_seed(0)
        device = MZIMesh(8, 8)
        layer = bp.PhysicalLayer(device, estimator=bp.estimators.Oracle(), surrogate=bp.surrogates.Oracle())
        optimizer = torch.optim.Adam(layer.parameters(), 1e-2)
        x, target = draw(16, 8), draw(16, 8, seed=1)
        for _ in range(20):
            optimizer.zero_grad()
            loss = (layer(x) - target).square().mean()
            loss.backward()
            optimizer.step()
        return float(loss.detach())

    ours = train()
    monkeypatch.setattr(_mesh, "_serves", lambda x, numbers: False)
    assert train() == pytest.approx(ours, rel=1e-4)
