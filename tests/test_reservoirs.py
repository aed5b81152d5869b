"""Reservoirs: their contract, what they remember, what carries over, what is refused."""

from __future__ import annotations

import math
import sys
import time
from pathlib import Path

import pytest
import torch

import blackprop as bp
from blackprop.core import Purpose, Query
from blackprop.devices import ActiveRing, EchoState, Ikeda, SpinWaveScatterer, Stateful
from blackprop.errors import ArgumentError, LimitError, ReadingError, ShapeError
from support import draw

MEGA = 2 * math.pi * 1e6  # rad/s
RING = ActiveRing(6, 2, nodes=5)
DEVICES = [
    RING,
    ActiveRing(6, 2, nodes=5, drive=ActiveRing.Drive.GAIN, initial=0.1, substeps=2),
    ActiveRing(6, nodes=6, period=300e-9, delay=350e-9, nonlinear_damping=0.0),
    SpinWaveScatterer(6, 2, nodes=5),
    Ikeda(6, 2, nodes=5),
    EchoState(6, 2, nodes=5),
]


def named(device: bp.Simulator) -> str:
    return f"{type(device).__name__}-{DEVICES.index(device)}" if device in DEVICES else type(device).__name__


def setting(device: bp.Simulator) -> torch.Tensor:
    return device.theta.draw(torch.Generator().manual_seed(1)).double()


@pytest.mark.parametrize("device", DEVICES, ids=named)
def test_reservoirs_keep_their_contract(device):
    claims = dict(bp.testing.check_device(device).claims)
    assert claims["linear"].startswith("not declared: off by")


@pytest.mark.parametrize("device", DEVICES, ids=named)
def test_derivatives_are_those_of_differences(device):
    x, theta = draw(2, *device.in_shape, dtype=torch.float64), setting(device)
    inputs = (x.requires_grad_(), theta.requires_grad_())
    assert torch.autograd.gradcheck(device.transfer, inputs, fast_mode=True, rtol=1e-3)


def test_a_reservoir_trains_as_a_layer(generator):
    """A delayed copy of the input, with a random readout behind the ring: the ring's own gradient lowers the loss."""
    layer = bp.PhysicalLayer(ActiveRing(12, nodes=8), *bp.presets.oracle(), generator=generator)
    x, readout = draw(16, 12, 1), draw(8, 1, seed=1)
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.03)
    losses = []
    for _ in range(12):
        optimizer.zero_grad()
        y = layer(x) @ readout
        loss = ((y - y.mean((0, 1)))[:, 1:] - x[:, :-1]).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.9 * losses[0]


# -- the field's own benchmarks ----------------------------------------------------------------------------------------


@pytest.fixture
def tasks(monkeypatch):
    """benchmarks/reservoirs.py, as the command line imports it."""
    pytest.importorskip("matplotlib")
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks"))
    import reservoirs

    yield reservoirs
    for name in ("reservoirs", "chart"):
        sys.modules.pop(name, None)


def test_the_ring_remembers_what_the_published_ones_do(tasks):
    """Published experiments: 4.7 and 1.7. One operating point above threshold, 50 nodes, 0.1 % read noise."""
    bits = tasks.draw_bits(25, 110)
    states = tasks.answer(tasks.capacity_ring(110), 2 * bits - 1, gains=(1.2, 2.5))
    memory, parity = tasks.capacities(states[0], bits)
    assert memory > 4
    assert parity > 1.5
    assert sum(tasks.capacities(states[1], bits)) < 3  # oscillating freely, it listens no more
    assert sum(tasks.capacities(states[0], bits.flip(0))) < 0.5  # somebody else's bits: nothing is remembered


def test_narma_on_the_ring_and_on_the_echo_state(tasks):
    u, target = tasks.narma10(40, 110)
    ring = tasks.nrmse(tasks.answer(tasks.narma_ring(110), 4 * u - 1), target)
    echo = tasks.nrmse(tasks.answer(EchoState(110), 4 * u - 1, noise=0.0), target)
    assert ring < 0.4
    assert 0.2 < echo < 0.35
    assert tasks.nrmse((4 * u - 1).unsqueeze(-1), target) > 0.7  # what the input says without a memory


def test_rows_together_are_quick():
    ring, x = ActiveRing(12), draw(256, 12, 1)
    theta = setting(ring).float()

    def seconds(rows: torch.Tensor) -> float:
        start = time.perf_counter()
        ring.transfer(rows, theta)
        return time.perf_counter() - start

    with torch.no_grad():
        alone, together = (min(seconds(rows) for _ in range(3)) for rows in (x[:1], x))
    assert 256 * alone > 20 * together


# -- state -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("device", DEVICES, ids=named)
def test_a_carried_state_joins_pieces_into_the_whole(device):
    whole = type(device)(12, device.in_shape[1], device.out_shape[1], **CARRIED.get(DEVICES.index(device), {}))
    theta, x = setting(device), draw(3, 12, device.in_shape[1], dtype=torch.float64)
    carried = Stateful(device)
    first, second = (Query(piece, theta, Purpose.FORWARD) for piece in x.split(6, 1))
    a, b = carried.measure([first, second])
    torch.testing.assert_close(torch.cat((a, b), 1), whole.transfer(x, theta))
    assert not torch.allclose(b, device.transfer(second.x, theta))
    state = carried.state_dict()
    assert state["state"] is not None
    (c,) = carried.measure([first])
    carried.load_state_dict(state)
    assert torch.equal(carried.measure([first])[0], c)
    assert not torch.allclose(c, a)
    carried.reset()
    assert carried.state is None
    assert torch.equal(carried.measure([first])[0], a)
    assert carried.oracle() is None


CARRIED: dict[int, dict] = {
    1: {"drive": ActiveRing.Drive.GAIN, "initial": 0.1, "substeps": 2},
    2: {"period": 300e-9, "delay": 350e-9, "nonlinear_damping": 0.0},
}


def test_a_carried_state_belongs_to_its_rows():
    carried = Stateful(ActiveRing(6, 2, nodes=5))
    with pytest.raises(ArgumentError, match="must be programmed"):
        carried.read(draw(2, 6, 2))
    carried.measure([Query(draw(2, 6, 2), setting(RING).float(), Purpose.FORWARD)])
    with pytest.raises(ShapeError, match=r"holds the state of 2 rows and was sent 3; `reset\(\)`"):
        carried.read(draw(3, 6, 2))
    with pytest.raises(ArgumentError, match="carries the state of a reservoir, got Matrix"):
        Stateful(bp.devices.Matrix(5, 4))


def test_a_plain_reservoir_starts_every_row_at_rest():
    x, theta = draw(4, 6, 2), setting(RING).float()
    RING.measure([Query(5 * x, theta, Purpose.FORWARD)])
    assert torch.equal(RING.measure([Query(x, theta, Purpose.FORWARD)])[0], RING.transfer(x, theta))


# -- what is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: ActiveRing(5, nodes=10, period=1e-6, delay=90e-9),
            "9e-08 s is shorter than the integration step of 1e-07",
        ),
        (lambda: Ikeda(5, nodes=10, period=1e-4, delay=9e-6), "shorter than the integration step"),
        (
            lambda: ActiveRing(5, nodes=10, delay=505e-9, period=500e-9),
            "whole number of integration steps .* nearest is 5e-07",
        ),
        (lambda: ActiveRing(5, gain=-0.1), r"`ActiveRing\(gain=...\)` must be finite and not negative, got -0.1"),
        (
            lambda: ActiveRing(5, gain=1.2, saturation=math.inf, nonlinear_damping=0.0),
            r"gain=1.2\)` is unstable: above 1",
        ),
        (lambda: ActiveRing(5, saturation=0.0), "saturation=...*positive, got 0"),
        (lambda: ActiveRing(5, damping=math.nan), "damping=...*positive and finite, got nan"),
        (lambda: ActiveRing(5, shift=math.inf), "shift=...*must be finite"),
        (lambda: ActiveRing(0), "time=...*at least 1, got 0"),
        (lambda: ActiveRing(5, substeps=0), "substeps=...*at least 1"),
        (lambda: ActiveRing(5, drive="gain"), "must be a member of ActiveRing.Drive"),
        (lambda: ActiveRing(5, drive=ActiveRing.Drive.GAIN, bias=0.0), "has no wave to amplify"),
        (lambda: Ikeda(5, response=0.0), "response=...*positive"),
        (lambda: SpinWaveScatterer(5, pump=-1.0), "pump=...*not negative"),
        (lambda: EchoState(5, leak=0.0), "leak=...*above 0 and at most 1"),
        (lambda: EchoState(5, radius=-1.0), "radius=...*not negative"),
    ],
)
def test_bad_arguments_are_refused(make, message):
    with pytest.raises(ArgumentError, match=message):
        make()


def test_an_unstable_operating_point_is_reported_with_its_gain():
    """Without saturation nothing bounds the wave: the limit is the threshold, and beyond there is no silent NaN."""
    ring = ActiveRing(400, nodes=5, saturation=math.inf, nonlinear_damping=0.0, gain=0.9)
    theta, x = setting(ring).float(), draw(2, 400, 1)
    assert bool(ring.measure([Query(x, theta, Purpose.FORWARD)])[0].isfinite().all())
    theta[0] = 3.5
    with pytest.raises(LimitError, match=r"theta\[0\] = 3.5 is outside the device's limits \[0, 1\]"):
        ring.program(theta)
    with pytest.raises(ReadingError, match=r"unstable at gain 3.5: its state is no longer finite at sample \d+"):
        ring.measure([Query(x, theta, Purpose.FORWARD)])
    modulated = ActiveRing(60, nodes=5, saturation=math.inf, nonlinear_damping=0.0, drive=ActiveRing.Drive.GAIN)
    modulated.program(setting(modulated).float())
    with pytest.raises(ReadingError, match=r"unstable at gain 0.9.*smaller rows"):
        modulated.read(1e3 * draw(2, 60, 1))


@pytest.mark.parametrize("leak", [1.0, 0.4])
@pytest.mark.parametrize(("settings", "own"), [((), False), ((3,), False), ((3,), True)])
def test_an_echo_state_that_is_only_read_answers_as_one_that_is_differentiated(leak, settings, own):
    device = bp.devices.EchoState(30, 2, 12, leak=leak, initial=0.1)
    theta = device.theta.draw(torch.Generator().manual_seed(0))
    theta = theta * (1 - 0.1 * torch.rand(*settings, 1)) if settings else theta
    x = draw(*(settings if own else ()), 5, 30, 2)
    kept, start = x.clone(), device.rest(x, theta)
    begun = start.clone()
    with torch.no_grad():
        y, state = device.evolve(x, theta, start)
    assert torch.equal(x, kept)
    assert torch.equal(start, begun)
    wanted, ended = device.evolve(x, theta.clone().requires_grad_(), start)
    torch.testing.assert_close(y, wanted.detach(), rtol=2e-5, atol=2e-5)
    torch.testing.assert_close(state, ended.detach(), rtol=2e-5, atol=2e-5)
    state.zero_()
    torch.testing.assert_close(y, wanted.detach(), rtol=2e-5, atol=2e-5)  # not the same memory
