"""What simulators keep at a setting: the same readings as their transfers, and never those of another device."""

from __future__ import annotations

import math
import pickle

import pytest
import torch

import blackprop as bp
from blackprop.devices import (
    Chip,
    ConductanceArray,
    CoupledModes,
    Crossbar,
    Drifting,
    ImperfectMicroring,
    ImperfectMZIMesh,
    LightModulator,
    Memristive,
    Memristor,
    Microring,
    MirroredDiffraction,
    Monarch,
    MZIMesh,
    Noisy,
    Quantised,
    ScatteringMedium,
    TappedMesh,
    ThreeSplitterMesh,
    as_built,
    chips,
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
    ImperfectMicroring(6, 4, phase=0.3),
    ScatteringMedium(6, 4, linear=True),
    MirroredDiffraction(6, 4, planes=2),
    Monarch(6, 4),
    CoupledModes(6, 4),
    Chip(chips.Rectangular(), 6, 4),
    Chip(chips.Triangular(), 6, 4, heaters=chips.Heaters(), losses=chips.Losses(port=1.0)),
    TappedMesh(MZIMesh(6, 4), loss=0.3, spread=0.2),
    as_built(LightModulator(6, 4), camera=True),
    as_built(Microring(6, 4)),
    as_built(MZIMesh(6, 4), scale=1e-3),
]


def setting(device: bp.Device, seed: int = 0) -> torch.Tensor:
    """A setting of its own for each seed, also of a device that always starts at the same one."""
    theta = device.theta.draw(torch.Generator().manual_seed(seed))
    return theta + 0.1 * seed if isinstance(device, ScatteringMedium) else theta


def ask(
    device: bp.Device, x: torch.Tensor, theta: torch.Tensor, purpose: bp.Purpose = bp.Purpose.FORWARD
) -> torch.Tensor:
    return device.measure([bp.Query(x, theta, purpose)])[0]


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
    device.forget()
    theta = setting(device, 7)
    for _ in range(3):
        ask(device, draw(20, 6), theta)
    once = 1 if device.kept_from else 2  # cheap ones, when a setting is read for the second time
    assert made.count(device) == once
    ask(device, draw(20, 6), theta, bp.Purpose.EVALUATE)
    assert made.count(device) == once
    ask(device, draw(20, 6), setting(device, 8), bp.Purpose.EVALUATE)
    ask(device, draw(20, 6), setting(device, 8), bp.Purpose.EVALUATE)
    assert made.count(device) == once + 1


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


def changed(device: bp.Simulator, change, purpose: bp.Purpose = bp.Purpose.EVALUATE) -> None:
    """Assert that a change moves the reading at a setting that is held, to that of the changed device."""
    x, theta = draw(20, 6), setting(device, 3)
    before = ask(device, x, theta, purpose)
    change(device)
    after = ask(device, x, theta, purpose)
    torch.testing.assert_close(after, device.transfer(x, theta), rtol=1e-4, atol=1e-5)
    assert float((after - before).norm()) > 1e-2 * float(before.norm())


def test_a_change_in_any_depth_of_a_device_is_noticed():
    changed(Crossbar(6, 4), lambda d: setattr(d.array, "scale", 3.0))
    changed(Crossbar(6, 4, stuck=(0.1, 0.1)), lambda d: d.stuck.copy_(~d.stuck))
    changed(Chip(chips.Rectangular(), 6, 4), lambda d: d.build.offset.add_(0.5))
    changed(Chip(chips.Rectangular(), 6, 4), lambda d: setattr(d, "build", Chip(d.design, 6, 4, seed=5).build))
    changed(TappedMesh(ImperfectMZIMesh(6, 4)), lambda d: d.mesh.errors.add_(0.5))
    changed(as_built(Microring(6, 4)), lambda d: setattr(d.device, "amplitudes", d.device.amplitudes / 2))
    changed(as_built(Microring(6, 4)), lambda d: d.device.offset.add_(0.5))
    changed(ScatteringMedium(6, 4, linear=True), lambda d: next(iter(d._placed.values())).mul_(2))
    changed(MirroredDiffraction(6, 4), lambda d: d._placed[draw(1).device, torch.complex64][0].mul_(2))
    changed(Listed(6, 4), lambda d: d.parts["gain"][0].mul_(2))
    changed(Listed(6, 4), lambda d: d.parts["gain"].append(torch.tensor(5.0)))
    changed(Modular(6, 4), lambda d: torch.nn.init.eye_(d.behind.weight))
    changed(LightModulator(6, 4), lambda d: setattr(d, "transfer", lambda x, theta: x[:, :4] * theta[0]))


class Modular(LightModulator):
    """A modulator of one's own behind a module."""

    def __init__(self, d_in, d_out):
        super().__init__(d_in, d_out)
        self.behind = torch.nn.Linear(d_out, d_out, bias=False)

    def transfer(self, x, theta, /):
        return self.answer(x, self.coefficients(theta))

    def coefficients(self, theta, /):
        return self.behind.weight @ super().coefficients(theta)


class Listed(LightModulator):
    """A modulator of one's own, whose transfer and coefficients depend on tensors in a list in a dict."""

    def __init__(self, d_in, d_out):
        super().__init__(d_in, d_out)
        self.parts = {"gain": [torch.tensor(2.0)]}

    def transfer(self, x, theta, /):
        return self.answer(x, self.coefficients(theta))

    def coefficients(self, theta, /):
        return self.parts["gain"][-1] * super().coefficients(theta)


def test_a_setting_that_is_written_to_in_place_is_another_setting():
    device, x = MZIMesh(6, 4), draw(20, 6)
    theta = setting(device)
    ask(device, x, theta)
    theta.data[3:5] += 0.5  # not counted by the tensor
    torch.testing.assert_close(ask(device, x, theta), device.transfer(x, theta), rtol=2e-5, atol=2e-5)
    device.programmed[0] += 0.5  # the device's own
    written = device.programmed.clone()
    torch.testing.assert_close(ask(device, x, written), device.transfer(x, written), rtol=2e-5, atol=2e-5)
    device.program(theta)
    torch.testing.assert_close(device.read(x), device.transfer(x, theta), rtol=2e-5, atol=2e-5)


def test_a_setting_of_another_precision_is_another_setting():
    for device in (LightModulator(6, 4), MZIMesh(6, 4), Crossbar(6, 4)):
        theta = setting(device)
        for dtype in (torch.float64, torch.float32, torch.float64):
            x = draw(20, 6).to(dtype)
            y = ask(device, x, theta.to(dtype))
            assert y.dtype == dtype
            exact = device.transfer(x, theta.to(dtype))
            torch.testing.assert_close(y, exact, rtol=2e-5 if dtype == torch.float32 else 1e-12, atol=2e-5)


def test_tensors_that_do_not_count_their_changes_are_never_trusted():
    x = draw(20, 6)
    with torch.inference_mode():
        mesh = ImperfectMZIMesh(6, 4)
        theta = setting(mesh)
        ask(mesh, x, theta)
        mesh.offset.add_(0.5)
        torch.testing.assert_close(ask(mesh, x, theta), mesh.transfer(x, theta), rtol=1e-4, atol=1e-5)
    theta = setting(mesh)
    before = ask(mesh, x, theta)
    torch.testing.assert_close(ask(mesh, x, theta), before)


def test_an_evaluation_of_few_rows_is_kept_and_a_training_step_is_not(monkeypatch):
    device, made = MZIMesh(64, 64), []
    theta, x = setting(device), draw(8, 64)
    coefficients = MZIMesh.coefficients
    monkeypatch.setattr(
        MZIMesh, "coefficients", lambda self, theta: made.append(1) or coefficients(self, theta), raising=True
    )
    step = ask(device, x, theta)
    assert not made
    seen = [ask(device, x, theta, bp.Purpose.EVALUATE) for _ in range(3)]
    assert len(made) == 1
    assert torch.equal(seen[0], seen[2])
    assert torch.equal(ask(device, x, theta), step)  # as before the evaluations
    torch.testing.assert_close(seen[0], step, rtol=2e-5, atol=2e-5)
    ask(device, x[:3], theta, bp.Purpose.EVALUATE)  # fewer than a sixteenth of the modes
    assert len(made) == 1


def test_queries_at_one_setting_are_read_together():
    for device in DEVICES:
        theta, blocks = setting(device), [draw(n, 6, seed=n) for n in (3, 5, 1)]
        asked = [bp.Query(x, theta, bp.Purpose.EVALUATE) for x in blocks]
        for y, x in zip(device.measure(asked), blocks, strict=True):
            torch.testing.assert_close(y, device.transfer(x, theta), rtol=2e-5, atol=2e-5)


def test_coefficients_that_are_too_large_are_not_kept(monkeypatch):
    monkeypatch.setattr("blackprop.core._kept.MOST", 4 * 6 * 4 - 1)
    device = LightModulator(6, 4)
    ask(device, draw(20, 6), setting(device), bp.Purpose.EVALUATE)
    assert device._Simulator__kept is None


def test_a_device_whose_state_is_loaded_answers_in_that_state():
    x = draw(20, 6)

    def drifting():
        return Drifting(MZIMesh(6, 4), initial=1.0, per_programming=0.1, clock=lambda: 0.0)

    device, theta = drifting(), setting(MZIMesh(6, 4))
    ask(device, x, theta)
    state = device.state_dict()
    first = ask(device, x, theta)
    device.load_state_dict({**state, "offset": state["offset"] + 1})
    other = ask(device, x, theta)
    assert float((other - first).norm()) > 0.1 * float(first.norm())
    device.load_state_dict(state)
    assert torch.equal(ask(device, x, theta), first)
    coarse = Quantised(MZIMesh(6, 4), theta_bits=3)
    for _ in range(2):
        torch.testing.assert_close(ask(coarse, x, theta), coarse.oracle()(x, theta), rtol=2e-5, atol=2e-5)


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
