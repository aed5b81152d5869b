"""Devices that are read backwards: exact input gradients, their cost, and devices that are not reciprocal."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import blackprop as bp
from blackprop.core import ReadBack
from blackprop.devices import Chip, chips
from blackprop.errors import BlackpropWarning, ContractError, IncompatibleError
from blackprop.surrogates import Reciprocal
from support import draw

DEVICES = [
    bp.devices.Matrix(7, 5),
    bp.devices.LowRank(7, 5, rank=3),
    bp.devices.LightModulator(7, 5),
    bp.devices.Microring(7, 5),
    bp.devices.MZIMesh(8, 6),
    bp.devices.ThreeSplitterMesh(8, 6),
    bp.devices.ImperfectMZIMesh(8, 6),
    bp.devices.Monarch(16, 16),
    bp.devices.Crossbar(7, 5),
]


def gradient(device: bp.Device, surrogate: bp.surrogates.Surrogate, x: Tensor, g: Tensor) -> tuple[Tensor, bp.Ledger]:
    layer = bp.PhysicalLayer(
        device, bp.estimators.RandomDirections(1), surrogate, generator=torch.Generator().manual_seed(0)
    )
    layer.theta.requires_grad_(False)
    rows = x.clone().requires_grad_()
    (layer(rows) * g).sum().backward()
    assert rows.grad is not None
    return rows.grad, layer.ledger


@pytest.mark.parametrize("device", DEVICES, ids=str)
def test_the_gradient_is_the_oracles_at_no_programming_of_its_own(device):
    x, g = draw(9, *device.in_shape), draw(9, *device.out_shape, seed=1)
    exact, _ = gradient(device, bp.surrogates.Oracle(), x, g)
    device.forget()
    found, ledger = gradient(device, Reciprocal(), x, g)
    torch.testing.assert_close(found, exact, rtol=1e-4, atol=1e-5 * float(exact.abs().max()))
    assert ledger.total_programmings == 1  # that of the forward pass
    assert ledger.actions == {"read_back": min(9, *device.out_shape)}
    assert ledger.rows[bp.Purpose.SURROGATE] == min(9, *device.out_shape)


def test_fewer_probes_keep_the_leading_part_of_the_cotangent():
    device, x = bp.devices.Matrix(7, 5), draw(9, 7)
    g = draw(9, 2) @ draw(2, 5, seed=3)  # of rank 2
    exact, _ = gradient(device, bp.surrogates.Oracle(), x, g)
    found, ledger = gradient(device, Reciprocal(), x, g)
    torch.testing.assert_close(found, exact, rtol=1e-4, atol=1e-5)
    assert ledger.actions == {"read_back": 2}
    rough, ledger = gradient(device, Reciprocal(probes=1), x, g)
    assert ledger.actions == {"read_back": 1}
    u, s, v = torch.linalg.svd(g, full_matrices=False)
    leading = (u[:, :1] * s[:1]) @ v[:1]
    torch.testing.assert_close(rough, gradient(device, bp.surrogates.Oracle(), x, leading)[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("device", DEVICES, ids=str)
def test_what_declares_it_is_reciprocal(device):
    assert dict(bp.testing.check_device(device).claims)["reciprocal"]


def test_noise_is_allowed_for():
    report = bp.testing.check_device(bp.devices.Noisy(bp.devices.MZIMesh(8, 6), read=0.02), noise=0.1)
    assert "reciprocal" in dict(report.claims)


class Isolator(bp.devices.Matrix):
    """Lets back through less of the last input than it lets through."""

    def read_back(self, g: Tensor, /) -> Tensor:
        back = super().read_back(g)
        back[:, -1] *= 0.9
        return back


def test_a_device_that_is_not_reciprocal_is_found_out():
    with pytest.raises(ContractError, match=r"reciprocal: measured ⟨g, A x⟩ and ⟨Aᵀ g, x⟩ differ"):
        bp.testing.check_device(Isolator(7, 5))


class Reversed(bp.devices.Matrix):
    """Its ports at the inputs are read in the reverse order."""

    def read_back(self, g: Tensor, /) -> Tensor:
        return super().read_back(g).flip(1)


def network(device: bp.Device) -> Callable[[int], bp.PhysicalLayer]:
    """A function that takes steps of training, of the device and a layer before it, and returns the layer."""
    layer = bp.PhysicalLayer(
        device, bp.estimators.RandomDirections(1), Reciprocal(), generator=torch.Generator().manual_seed(0)
    )
    model = torch.nn.Sequential(torch.nn.Linear(9, 7), layer)

    def steps(number: int) -> bp.PhysicalLayer:
        for seed in range(number):
            loss = torch.nn.functional.cross_entropy(model(draw(32, 9, seed=seed)), torch.arange(32) % 5)
            loss.backward()
        return layer

    return steps


def test_a_device_that_is_not_reciprocal_is_told_while_it_trains_after_five_batches_and_once():
    steps = network(Reversed(7, 5))
    assert steps(4).surrogate.contradictions == 4
    with pytest.warns(BlackpropWarning, match=r"declares that it is read backwards.*without=\[core.ReadBack\]") as told:
        steps(1)
    steps(8)
    assert len(told) == 1


@pytest.mark.parametrize("noise", [0.0, 0.1, 0.3])
@pytest.mark.parametrize("declared", [True, False])
def test_a_reciprocal_device_is_not_accused_for_its_noise(noise, declared):
    device = bp.devices.Noisy(bp.devices.Matrix(7, 5), read=noise) if noise else bp.devices.Matrix(7, 5)
    if not declared:
        device.noise = 0.0
    surrogate = network(device)(60).surrogate  # warnings are errors
    assert isinstance(surrogate, Reciprocal)
    assert surrogate.contradictions < 5


@pytest.mark.parametrize(
    ("device", "words"),
    [
        (bp.devices.Differential(bp.devices.Matrix(4, 3)), "does not declare the capability `read_back`"),
        (
            bp.devices.from_callable(lambda x, t: x * t, in_shape=3, out_shape=3, theta_size=3, linear=True),
            "does not declare the capability `read_back`",
        ),
        (bp.devices.Diffraction(9, 4), "reads powers needs homodyne detectors"),
        (Chip(chips.Rectangular(), 4, 4, readout=chips.Power()), "reads powers needs homodyne detectors"),
        (bp.devices.Chain(bp.devices.Matrix(4, 3), torch.tanh), "is not declared linear"),
    ],
    ids=str,
)
def test_what_does_not_declare_it_is_refused_with_what_it_needs(device, words):
    with pytest.raises(IncompatibleError, match=words):
        bp.PhysicalLayer(device, bp.estimators.RandomDirections(1), Reciprocal())


def test_it_follows_a_device_that_drifts_without_a_query():
    """The device moves at every programming; the backward reading is of the device as it is."""
    device = bp.devices.Drifting(bp.devices.LightModulator(6, 4), per_programming=0.3, seed=1)
    layer = bp.PhysicalLayer(device, bp.estimators.Oracle(), Reciprocal())
    optimizer = torch.optim.SGD(layer.parameters(), 0.1)
    for step in range(4):
        x, g = draw(5, 6, seed=step).requires_grad_(), draw(5, 4, seed=9 + step)
        optimizer.zero_grad()
        (layer(x) * g).sum().backward()
        transfer = device.oracle()
        assert transfer is not None
        assert x.grad is not None
        leaf = x.detach().clone().requires_grad_()
        (layer.gain.detach() * transfer(leaf, layer.theta.detach()) * g).sum().backward()
        torch.testing.assert_close(x.grad, leaf.grad, rtol=1e-4, atol=1e-6)
        optimizer.step()


def test_over_the_network_it_is_the_same(tmp_path):
    from blackprop.lab.remote.shared._keys import make_keys
    from serving import served

    make_keys(keys := tmp_path / "keys")
    x, g = draw(9, 7), draw(9, 5, seed=1)
    with (
        served(lambda: bp.devices.Matrix(7, 5), keys) as server,
        bp.lab.RemoteDevice(server.address, keys=keys, capabilities=[ReadBack]) as device,
    ):
        layer = bp.PhysicalLayer(device, bp.estimators.RandomDirections(1), Reciprocal())
        rows = x.clone().requires_grad_()
        (layer(rows) * g).sum().backward()
        A = layer.theta.detach().view(5, 7)
    torch.testing.assert_close(rows.grad, g @ A, rtol=1e-4, atol=1e-5)
