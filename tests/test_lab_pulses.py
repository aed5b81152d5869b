"""Pulses in the laboratory: sent once whatever is lost and whoever is killed; worn cells; recordings."""

from __future__ import annotations

import threading
import time

import pytest
import torch
from torch import Tensor

import blackprop as bp
from blackprop import errors
from blackprop.core import Ledger, Pulse, Purpose, Query, ask, metered, run
from blackprop.devices import PulsedCrossbar, cells
from blackprop.lab import Guarded, Recorded, RemoteDevice, Replayed
from serving import PulseRecorder, ServerProcess, lines, served
from support import draw
from test_lab_remote import BadConnection, OverBadConnection

ONE = torch.ones(1)
SAME = {"step_spread": 0.0, "high_spread": 0.0, "low_spread": 0.0, "asymmetry_spread": 0.0, "noise": 0.0}


def train(k: int, count: int = 1) -> Query:
    """Trains that are like no others."""
    x = torch.tensor([[1.0, -1.0, 0.0], [0.0, 1.0, 1.0]])[k % 2].repeat(count, 1)
    slots = torch.full((count, 1), float(1 + k % 31))
    return Query(torch.cat((x, torch.ones(count, 2), slots), 1), ONE, Purpose.PARAMETER, Pulse)


def pulsed(device: bp.Device, query: Query, **kwargs: object) -> Ledger:
    ledger = Ledger()
    run(ask(query), metered(device, ledger, **kwargs))
    return ledger


def test_over_a_bad_link_every_train_arrives_once_and_in_order(keys, record):
    BadConnection.generator.manual_seed(2)
    BadConnection.lost = BadConnection.damaged = 0
    with (
        served(lambda: PulseRecorder(record), keys) as server,
        OverBadConnection(server.address, keys=keys, capabilities=[Pulse]) as device,
    ):
        for k in range(25):
            pulsed(device, train(k))
    assert BadConnection.lost > 3
    assert BadConnection.damaged > 0
    assert [float(line.split()[-1]) for line in lines(record)] == [float(1 + k) for k in range(25)]


def test_a_server_that_is_killed_between_rounds_repeats_no_pulse(keys, record):
    process = ServerProcess(keys, record, make=PulseRecorder)
    try:
        with RemoteDevice(process.address, keys=keys, capabilities=[Pulse]) as device:
            for k in range(4):
                pulsed(device, train(k))
                process.kill()
                process.start()
            (y,) = device.measure([Query(torch.eye(3), ONE, Purpose.EVALUATE)])
    finally:
        process.kill()
    assert len(lines(record, "train")) == 4
    wanted = sum(0.1 * (1 + k) * torch.outer(torch.ones(2), train(k).x[0, :3]) for k in range(4))
    torch.testing.assert_close(y.mT, wanted)


@pytest.mark.parametrize("repeat", [False, True])
def test_pulses_in_which_the_server_was_killed_are_in_doubt_and_never_sent_again(keys, record, repeat):
    """Also where the client lets rounds of readings be repeated."""
    process = ServerProcess(keys, record, seconds=0.3, make=PulseRecorder)
    outcome: list[object] = []

    def send() -> None:
        try:
            outcome.append(pulsed(device, train(1, count=4)))
        except errors.DeviceError as error:
            outcome.append(error)

    try:
        with RemoteDevice(process.address, keys=keys, repeat_in_doubt=repeat, capabilities=[Pulse]) as device:
            pulsed(device, train(0))
            thread = threading.Thread(target=send)
            thread.start()
            time.sleep(0.75)
            process.kill()
            process.start()
            thread.join()
            arrived = len(lines(record, "train"))
            assert 1 < arrived < 5
            assert isinstance(outcome[0], errors.InDoubtError)
            if repeat:
                assert "with pulse, and it is unknown whether it was carried out; such rounds are never" in str(
                    outcome[0]
                )
            pulsed(device, train(2))
            assert len(lines(record, "train")) == arrived + 1
    finally:
        process.kill()


# Wear.


def crossbar(**kwargs: object) -> PulsedCrossbar:
    return PulsedCrossbar(6, 4, cells.ConstantStep(**SAME), initial=0.0, **kwargs)


def single(device: bp.Device, count: int = 1, columns: int = 6) -> Query:
    x = torch.zeros(count, 6)
    x[:, :columns] = 1.0
    theta = torch.zeros(device.theta.size)
    theta[0] = 1.0
    return Query(device.declaration.capability(Pulse).single(x, torch.ones(count, 4)), theta, Purpose.PARAMETER, Pulse)


def weights(device: PulsedCrossbar) -> Tensor:
    return device.state_dict()["weights"]


def test_a_round_beyond_the_wear_of_a_cell_is_refused_before_a_pulse():
    device = crossbar(gains=(0.0, 1.0))
    guard = Guarded(device, wear=10)
    pulsed(guard, single(guard, 7, columns=2))
    pulsed(guard, single(guard, 3))
    before = weights(device)
    assert guard.worn.pulses[0, 0].tolist() == [10, 10, 3, 3, 3, 3]
    assert not bool(guard.worn.pulses[1].any())  # the other tile has had none
    with pytest.raises(
        errors.LimitError, match="row 0 and column 0 of tile 0 has had 10 pulses and would have 11, of 10"
    ):
        pulsed(guard, single(guard))
    assert torch.equal(weights(device), before)
    guard.measure([Query(draw(2, 6), torch.ones(2), Purpose.FORWARD)])  # readings wear nothing
    pulsed(guard, Query(single(guard, 10).x, torch.tensor([0.0, 1.0]), Purpose.PARAMETER, Pulse))


def test_random_trains_wear_by_their_expected_pulses():
    device = crossbar()
    guard = Guarded(device, wear=1e6)
    trains = device.declaration.capability(Pulse).trains(draw(500, 6), 0.003 * draw(500, 4))
    pulsed(guard, Query(trains, ONE, Purpose.PARAMETER, Pulse))
    p, q, slots = trains[:, :6].abs(), trains[:, 6:-1].abs(), trains[:, -1:]
    torch.testing.assert_close(guard.worn.pulses[0], ((q * slots).mT @ p).double(), rtol=1e-5, atol=1e-5)


def test_wear_is_saved_and_a_failed_round_counts():
    guard, other = (Guarded(bp.lab.Faulty(crossbar()), wear=10) for _ in range(2))
    pulsed(guard, single(guard, 4))
    other.load_state_dict(guard.state_dict())
    assert float(other.worn.pulses.max()) == 4
    with pytest.raises(ValueError, match="pulses of shape"):
        other.worn.load(torch.zeros(1))

    class Broken(bp.devices.Wrapper):
        survives = (Pulse,)

        def measure(self, queries, /):
            super().measure(queries)
            raise errors.DeviceError("the answer was lost")

    broken = Guarded(Broken(crossbar()), wear=10)
    with pytest.raises(errors.DeviceError):
        pulsed(broken, single(broken, 6))
    assert float(broken.worn.pulses.max()) == 6


def test_a_guard_against_wear_needs_pulses_and_a_limit():
    with pytest.raises(errors.IncompatibleError, match="does not declare the capability `pulse`"):
        Guarded(bp.devices.Matrix(3, 2), wear=10)
    with pytest.raises(errors.ArgumentError, match=r"wear=...\)` must be positive, got 0"):
        Guarded(crossbar(), wear=0)


def test_a_training_ends_where_a_cell_is_worn():
    device = crossbar()
    layer = bp.PhysicalLayer(Guarded(device, wear=20), bp.estimators.pulsed.AnalogSGD(), bp.surrogates.Reciprocal())
    optimizer = bp.optim.Pulsed(torch.optim.SGD(bp.param_groups(layer, lr=0.0, device_lr=1.0)), layer)
    with pytest.raises(errors.LimitError, match="replace the array"):
        for step in range(50):
            optimizer.zero_grad()
            (layer(draw(8, 6, seed=step)) - 1).square().sum().backward()
            optimizer.step()
    assert layer.ledger.actions["pulse"] > 0


# Recordings.


def test_a_training_by_pulses_replays_to_the_same_bits_and_the_same_ledger(tmp_path):
    def run_on(device: bp.Device) -> tuple[list[Tensor], Ledger]:
        torch.manual_seed(0)
        layer = bp.PhysicalLayer(
            device,
            bp.estimators.pulsed.TikiTaka(),
            bp.surrogates.Reciprocal(),
            generator=torch.Generator().manual_seed(0),
        )
        model = torch.nn.Sequential(torch.nn.Linear(6, 6), layer)
        optimizer = bp.optim.Pulsed(torch.optim.SGD(bp.param_groups(model, lr=0.05, device_lr=0.1)), model)
        for step in range(6):
            optimizer.zero_grad()
            model(draw(8, 6, seed=step)).square().mean().backward()
            optimizer.step()
        return [p.detach().clone() for p in model.parameters()], layer.ledger

    path = tmp_path / "pulses.rec"
    device = PulsedCrossbar(6, 4, cells.RERAM_SB, gains=(0.0, 1.0))
    with Recorded(device, path) as recorded:
        first, ledger = run_on(recorded)
    assert ledger.actions["pulse"] > 0
    replayed = Replayed(path, capabilities=[Pulse, bp.core.ReadBack])
    again, other = run_on(replayed)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert other == ledger
    assert replayed.declaration.capability(Pulse) == device.declaration.capability(Pulse)
