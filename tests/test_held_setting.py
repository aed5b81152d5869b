"""What simulators keep at a setting: the same readings as their transfers, and never those of another device."""

from __future__ import annotations

import math
import pickle

import pytest
import torch

import blackprop as bp
from blackprop.devices import (
    ConductanceArray,
    Crossbar,
    Drifting,
    ImperfectMZIMesh,
    LightModulator,
    Memristive,
    Memristor,
    Microring,
    MZIMesh,
    Noisy,
    ThreeSplitterMesh,
)
from support import draw

DEVICES = [
    LightModulator(6, 4),
    Microring(6, 4),
    MZIMesh(6, 4),
    ThreeSplitterMesh(6, 4),
    ImperfectMZIMesh(6, 4),
    Crossbar(6, 4),
    Crossbar(6, 4, line=1e3),
    ConductanceArray(6, 4, line=0.1),
]


def setting(device: bp.Device, seed: int = 0) -> torch.Tensor:
    return device.theta.draw(torch.Generator().manual_seed(seed))


def ask(device: bp.Device, x: torch.Tensor, theta: torch.Tensor) -> torch.Tensor:
    return device.measure([bp.Query(x, theta, bp.Purpose.FORWARD)])[0]


@pytest.mark.parametrize("device", DEVICES, ids=str)
@pytest.mark.parametrize("rows", [1, 5, 6, 40])
def test_every_reading_is_that_of_the_transfer_and_repeats_to_the_bit(device, rows):
    x = draw(rows, 6)
    for seed in (0, 1, 0):
        theta = setting(device, seed)
        first = ask(device, x, theta)
        torch.testing.assert_close(first, device.transfer(x, theta), rtol=2e-5, atol=2e-5)
        assert torch.equal(ask(device, x, theta), first)
        device.forget()
        assert torch.equal(ask(device, x, theta), first)
        again = pickle.loads(pickle.dumps(device))
        assert torch.equal(ask(again, x, theta), first)


@pytest.mark.parametrize("device", DEVICES, ids=str)
def test_a_setting_that_is_held_computes_its_coefficients_once(device, monkeypatch):
    made = []
    coefficients = type(device).coefficients

    def counted(self, theta):
        made.append(self)
        return coefficients(self, theta)

    monkeypatch.setattr(type(device), "coefficients", counted)
    theta = setting(device, 7)
    for _ in range(3):
        ask(device, draw(20, 6), theta)
    assert made.count(device) == 1
    ask(device, draw(20, 6), setting(device, 8))
    assert made.count(device) == 2


def test_a_device_that_was_changed_answers_as_it_is_now():
    mesh, ring, x = ImperfectMZIMesh(6, 4), Microring(6, 4), draw(20, 6)
    theta = setting(mesh)
    before = ask(mesh, x, theta)
    mesh.offset = mesh.offset + 0.3  # another tensor
    after = ask(mesh, x, theta)
    torch.testing.assert_close(after, mesh.transfer(x, theta), rtol=1e-4, atol=1e-5)
    assert float((after - before).norm()) > 0.1 * float(before.norm())
    mesh.errors.add_(0.3)  # the same tensor, written to
    torch.testing.assert_close(ask(mesh, x, theta), mesh.transfer(x, theta), rtol=1e-4, atol=1e-5)
    theta = setting(ring)
    ask(ring, x, theta)
    ring.a = 0.5
    torch.testing.assert_close(ask(ring, x, theta), ring.transfer(x, theta))
    theta.add_(0.2)  # the caller's setting, written to after the query
    torch.testing.assert_close(ask(ring, x, theta), ring.transfer(x, theta))


class Worn(LightModulator):
    """A modulator of one's own, whose transfer depends on how often it was read."""

    reads = 0

    def transfer(self, x, theta, /):
        self.reads += 1
        return (1 - 0.1 * self.reads) * super().transfer(x, theta)


def test_a_subclass_with_a_transfer_of_its_own_is_served_by_it():
    device, x = Worn(6, 4), draw(20, 6)
    theta = setting(device)
    first, second = ask(device, x, theta), ask(device, x, theta)
    torch.testing.assert_close(second, first * 0.8 / 0.9)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda: Noisy(MZIMesh(6, 4), read=0.1),
        lambda: Drifting(MZIMesh(6, 4), per_root_second=1.0, clock=iter(map(float, range(1000))).__next__),
        lambda: Memristive(Crossbar(6, 4, memristor=Memristor(read=0.05))),
        lambda: Memristive(
            Crossbar(6, 4, memristor=Memristor(drift=0.3)), clock=iter(map(math.exp, range(1000))).__next__
        ),
    ],
)
def test_noise_and_drift_are_new_at_every_reading(wrap):
    device, x = wrap(), draw(20, 6)
    theta = setting(device)
    readings = [ask(device, x, theta) for _ in range(4)]
    assert all(not torch.equal(a, b) for i, a in enumerate(readings) for b in readings[:i])
