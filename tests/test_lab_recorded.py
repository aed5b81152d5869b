"""What passed between a run and a device is played again without the device, and nothing else is."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch

import blackprop as bp
from blackprop.core import Ledger, Purpose, Query, metered
from blackprop.devices import LightModulator, Noisy
from blackprop.errors import ArgumentError, BlackpropWarning, CheckpointError, DeviceError
from blackprop.lab import Checked, Faulty, Guarded, Recorded, Replayed, Retrying
from blackprop.testing import check_device
from support import draw


def _train(device: bp.Device, steps: int = 6) -> bp.PhysicalLayer:
    method = bp.presets.paper(rank=2, samples=3)
    layer = bp.PhysicalLayer(device, *method, generator=torch.Generator().manual_seed(1))
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.05)
    for step in range(steps):
        optimizer.zero_grad()
        layer(draw(5, 6, seed=step).requires_grad_()).square().sum().backward()
        optimizer.step()
    return layer


def _recording(path: Path, rounds: int = 3) -> tuple[list[list[Query]], list[list[torch.Tensor]]]:
    device = Noisy(LightModulator(6, 4), read=0.1)
    theta = device.theta.draw(torch.Generator().manual_seed(0))
    x = draw(5, 6)
    asked = [[Query(x, theta + i + k, Purpose.PARAMETER) for k in range(3)] for i in range(rounds)]
    with Recorded(device, path) as recorded:
        return asked, [recorded.measure(queries) for queries in asked]


def test_a_noisy_training_run_replays_to_the_same_bits_and_the_same_ledger(tmp_path):
    with Recorded(Noisy(LightModulator(6, 4), read=0.05), tmp_path / "run") as device:
        live = _train(device)
        held = device.programmed
    replayed = Replayed(tmp_path / "run")
    layer = _train(replayed)
    for name, value in live.named_parameters():
        assert torch.equal(value, dict(layer.named_parameters())[name]), name
    assert layer.ledger == live.ledger
    assert torch.equal(layer.generator.get_state(), live.generator.get_state())
    assert torch.equal(replayed.programmed, held)
    assert replayed.left == 0
    with pytest.raises(DeviceError, match="is at its end: all of its"):
        layer(draw(5, 6))
    # Without its noise the run would have ended elsewhere: it is the recorded readings that were played.
    assert not torch.equal(_train(LightModulator(6, 4)).theta, live.theta)


def test_failures_and_repeats_are_played_too(tmp_path):
    def link(device: bp.Device) -> bp.Device:
        return Retrying(device, attempts=20, base=0.0)

    faulty = Faulty(LightModulator(6, 4), seed=1, timeout=0.15, corrupted=0.1, duplicated=0.1)
    with Recorded(faulty, tmp_path / "run") as device:
        live = _train(link(device), steps=20)
    assert min(faulty.injected[name] for name in ("timeout", "corrupted", "duplicated")) >= 1
    replayed = Replayed(tmp_path / "run")
    layer = _train(link(replayed), steps=20)
    assert torch.equal(layer.theta, live.theta)
    assert layer.ledger == live.ledger
    assert replayed.left == 0
    with Recorded(Checked(Faulty(LightModulator(6, 4), nan_rows=0.05)), tmp_path / "other") as device:
        live = _train(device)
    layer = _train(Replayed(tmp_path / "other"))
    assert layer.ledger == live.ledger != _train(LightModulator(6, 4)).ledger


def test_what_differs_is_refused_and_named(tmp_path):
    asked, readings = _recording(tmp_path / "run")
    replayed = Replayed(tmp_path / "run")
    replayed.measure(asked[0])
    good, changed = asked[1], asked[1][1]
    moved = changed.theta.clone()
    moved[7] += 1e-3
    for queries, words in (
        (good[:2], "2 queries in a round, recorded 3"),
        (
            [good[0], Query(changed.x, moved, Purpose.PARAMETER), good[2]],
            r"query 4: theta\[7\] = .* in 1 of 24 numbers",
        ),
        ([good[0], Query(changed.x + 1, changed.theta, Purpose.PARAMETER), good[2]], r"query 4: x\[0, 0\] = "),
        ([good[0], Query(changed.x[:3], changed.theta, Purpose.PARAMETER), good[2]], r"query 4: x has shape \(3, 6\)"),
        ([Query(good[0].x, good[0].theta.double(), Purpose.PARAMETER), *good[1:]], "query 3: theta has dtype"),
        (
            [*good[:2], Query(good[2].x, good[2].theta, Purpose.FORWARD)],
            "query 5: asked for forward, recorded for param",
        ),
    ):
        with pytest.raises(DeviceError, match=rf"record 2.*{words}"):
            replayed.measure(queries)
    with pytest.raises(DeviceError, match="asked for a program, recorded a round"):
        replayed.program(moved)
    # A refusal leaves the recording where it was.
    assert all(torch.equal(a, b) for a, b in zip(replayed.measure(good), readings[1], strict=True))
    lenient = Replayed(tmp_path / "run", tolerance=2e-3)
    lenient.measure(asked[0])
    lenient.measure([good[0], Query(changed.x, moved, Purpose.PARAMETER), good[2]])


def test_another_start_is_refused(tmp_path):
    with Recorded(LightModulator(6, 4), tmp_path / "run") as device:
        theta = device.theta.draw(torch.Generator().manual_seed(1))
    with pytest.raises(DeviceError, match="from another generator"):
        Replayed(tmp_path / "run").theta.draw(torch.Generator().manual_seed(2))
    assert torch.equal(Replayed(tmp_path / "run").theta.draw(torch.Generator().manual_seed(1)), theta)


@pytest.mark.parametrize(
    "inner",
    [
        LightModulator(6, 4),
        bp.devices.Microring(5, 4),
        bp.devices.Diffraction(4, 4),
        Guarded(LightModulator(2, 2), low=torch.tensor([-1.0, 0.1, 0.0, -float("inf")]), high=2),
    ],
    ids=str,
)
def test_the_declaration_is_kept(inner, tmp_path):
    Recorded(inner, tmp_path / "run").close()
    spec, kept = inner.declaration, Replayed(tmp_path / "run").declaration
    for name in ("in_shape", "out_shape", "linear", "coupling", "cost", "noise"):
        assert getattr(kept, name) == getattr(spec, name)
    assert (kept.theta.size, kept.theta.period) == (spec.theta.size, spec.theta.period)
    for mine, its in zip(kept.theta.bounds(torch.zeros(1)), spec.theta.bounds(torch.zeros(1)), strict=True):
        assert torch.equal(mine, its)
    assert kept.oracle is None


def test_verbs_by_hand_are_played(tmp_path):
    inner = LightModulator(6, 4)
    theta, x = inner.theta.draw(torch.Generator().manual_seed(0)), draw(5, 6)

    def go(device: bp.Device) -> tuple[torch.Tensor, Ledger]:
        ledger = Ledger()
        with Guarded(device, slew=0.3, park=theta + 1) as guard:
            (y,) = metered(guard, ledger)([Query(x, theta, Purpose.FORWARD)])
            guard.program(theta + 0.2)
            return torch.stack((y, guard.read(x))), ledger

    with Recorded(inner, tmp_path / "run") as recorded:
        y, ledger = go(recorded)
    replayed = Replayed(tmp_path / "run")
    again, booked = go(replayed)
    assert torch.equal(again, y)
    assert booked == ledger
    assert replayed.left == 0


def test_a_torn_end_is_left_out_with_a_warning(tmp_path):
    asked, readings = _recording(tmp_path / "run")
    whole = (tmp_path / "run").read_bytes()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", BlackpropWarning)
        sizes = []
        for cut in range(0, len(whole), 11):
            (tmp_path / "torn").write_bytes(whole[:cut])
            try:
                sizes.append(Replayed(tmp_path / "torn").left)
            except CheckpointError:
                sizes.append(-1)
    assert sizes == sorted(sizes)
    assert set(sizes) == {-1, 0, 1, 2}
    (tmp_path / "torn").write_bytes(whole[:-1])
    with pytest.warns(BlackpropWarning, match="ends within record 3"):
        replayed = Replayed(tmp_path / "torn")
    for queries, expected in zip(asked[:2], readings, strict=False):
        assert all(torch.equal(a, b) for a, b in zip(replayed.measure(queries), expected, strict=True))
    with pytest.raises(DeviceError, match="is at its end"):
        replayed.measure(asked[2])


def test_damage_is_refused_wherever_it_is(tmp_path):
    _recording(tmp_path / "run")
    whole = (tmp_path / "run").read_bytes()
    for place in range(0, len(whole), 37):
        damaged = bytearray(whole)
        damaged[place] ^= 0x10
        (tmp_path / "damaged").write_bytes(damaged)
        with pytest.raises(CheckpointError, match=r"damaged|not a recording"):
            Replayed(tmp_path / "damaged")
    (tmp_path / "foreign").write_bytes(b"PK\x03\x04 something else entirely, and long enough")
    with pytest.raises(CheckpointError, match="not a recording of this version"):
        Replayed(tmp_path / "foreign")
    with pytest.raises(ArgumentError, match="no recording at"):
        Replayed(tmp_path / "nowhere")


KILLED = """
import os, signal, sys, torch, blackprop as bp
from blackprop.lab.wrappers._recorded import Recorded
from blackprop.core._query import Purpose, Query
device = Recorded(bp.devices.LightModulator(6, 4), sys.argv[1])
for i in range(50):
    device.measure([Query(torch.ones(5, 6), torch.full((24,), float(i)), Purpose.FORWARD)])
    if i == 20:
        os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_recording_has_all_that_was_answered(tmp_path):
    done = subprocess.run([sys.executable, "-c", KILLED, tmp_path / "run"], check=False, timeout=60)
    assert done.returncode == -signal.SIGKILL
    replayed = Replayed(tmp_path / "run")
    assert replayed.left == 21
    for i in range(21):
        replayed.measure([Query(torch.ones(5, 6), torch.full((24,), float(i)), Purpose.FORWARD)])


def test_rows_that_a_round_shares_are_written_once(tmp_path):
    x, theta = draw(500, 6), torch.zeros(24)
    with Recorded(LightModulator(6, 4), tmp_path / "run") as device:
        device.measure([Query(x, theta + i, Purpose.SURROGATE) for i in range(50)])
    readings = 50 * 500 * 4 * 4
    assert readings < os.path.getsize(tmp_path / "run") < readings + 500 * 6 * 4 + 50 * 24 * 4 + 4000  # noqa: PTH202


def test_the_place_is_state(tmp_path):
    asked, readings = _recording(tmp_path / "run")
    replayed, later = Replayed(tmp_path / "run"), Replayed(tmp_path / "run")
    replayed.measure(asked[0])
    later.load_state_dict(replayed.state_dict())
    assert torch.equal(later.measure(asked[1])[2], readings[1][2])
    with pytest.raises(ValueError, match="4 records"):
        later.load_state_dict({"next": 9, "asked": 0})


def test_the_contract_holds_and_the_check_replays(tmp_path):
    for number, inner in enumerate(
        (LightModulator(5, 4), bp.devices.Microring(5, 4), Noisy(LightModulator(5, 4), read=0.01))
    ):
        recorded = Recorded(inner, tmp_path / f"{number}")
        check_device(recorded)
        recorded.close()


def test_a_recording_is_never_overwritten(tmp_path):
    _recording(tmp_path / "run")
    with pytest.raises(ArgumentError, match="never overwritten"):
        Recorded(LightModulator(6, 4), tmp_path / "run")
    recorded = Recorded(LightModulator(6, 4), tmp_path / "closed")
    recorded.close()
    with pytest.raises(ArgumentError, match="closed"):
        recorded.measure([Query(draw(1, 6), torch.zeros(24), Purpose.FORWARD)])
