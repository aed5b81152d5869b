"""Over the network a round that is read both ways is measured once, whatever is lost and whoever is killed."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

import blackprop as bp
from blackprop import errors
from blackprop.core import Cells, Fields, Gains, Ledger, Purpose, Query, ReadBack, ReadBackField, Taps, metered
from blackprop.estimators import Estimator, ForwardMode, InSitu, Outer, Subspace
from blackprop.lab import RemoteDevice
from blackprop.lab.remote.shared import _messages as say
from blackprop.lab.remote.shared import _rounds as rounds
from blackprop.lab.remote.shared import _wire as wire
from blackprop.surrogates import Reciprocal, Surrogate
from serving import MakeDevice, ServerProcess, crossbar, eventually, factored, lines, mesh, resonators, served
from support import draw
from test_lab_remote import BadConnection, OverBadConnection

KINDS = (ReadBack, ReadBackField, Taps, Gains, Fields, Cells)
DEVICES = [mesh, factored, crossbar, resonators]
METHODS: list[tuple[MakeDevice, Estimator, Callable[[], Surrogate]]] = [
    (mesh, InSitu(), Reciprocal),
    (factored, Subspace(), Reciprocal),
    (crossbar, Outer(), Reciprocal),
    (resonators, ForwardMode(), bp.surrogates.Streaming),
]
each_device = pytest.mark.parametrize("make", DEVICES, ids=lambda make: make.__name__)


def both_ways(device: bp.Device, seed: int = 0) -> list[Query]:
    """A round at one setting: rows forwards, and rows of every kind that the device declares."""
    spec = device.declaration
    theta = spec.theta.draw(torch.Generator().manual_seed(7))
    queries = [Query(draw(2, *spec.in_shape, seed=seed), theta, Purpose.FORWARD)]
    for number, kind in enumerate(spec.capabilities):
        purpose = Purpose.SURROGATE if isinstance(kind, ReadBack) else Purpose.PARAMETER
        rows = draw(2 + number, *spec.row_shape(type(kind)), seed=100 * seed + number)
        queries.append(Query(rows, theta, purpose, type(kind)))
    return queries


def here(make: MakeDevice, queries: list[Query], path: Path) -> list[Tensor]:
    """The readings of the device on this machine; its lines are in the file `path`."""
    return make(path, 0.0).measure(queries)


def same(found: list[Tensor], expected: list[Tensor]) -> bool:
    return len(found) == len(expected) and all(map(torch.equal, found, expected))


def message(device: RemoteDevice, number: int, queries: list[Query]) -> list[wire.Buffer]:
    fields = {"id": number, "session": device._session, "boot": device._boot, "fresh": True}
    asked = rounds.Round.of(queries)
    return wire.encode(say.ROUND, {**fields, "kinds": rounds.names(asked)}, rounds.pack(asked))


def test_the_devices_of_these_tests_are_read_in_every_way(record):
    declared = {type(each) for make in DEVICES for each in make(record, 0.0).capabilities}
    assert declared == set(KINDS)


@each_device
def test_a_round_that_is_sent_again_is_not_measured_again(keys, record, tmp_path, make):
    with (
        served(lambda: make(record, 0.0), keys) as server,
        RemoteDevice(server.address, keys=keys, capabilities=KINDS) as device,
    ):
        queries, ledger = both_ways(device), Ledger()
        expected = here(make, queries, tmp_path / "here")
        assert same(metered(device, ledger)(queries), expected)
        repeated = message(device, 1, queries)
        for _ in range(3):
            device._connection.send(repeated)
            answer = device._connection.hear(2)
            assert answer is not None
            assert all(
                torch.equal(torch.from_numpy(y), right) for y, right in zip(answer.arrays, expected, strict=True)
            )
        metered(device, ledger)(both_ways(device, 1))
        device._connection.send(repeated)  # an old one, late
        assert device._connection.hear(0.2) is None
        assert (device.repeated(), device.in_doubt) == (bp.core.Count(), bp.core.Count())
    assert lines(record)[: len(lines(tmp_path / "here"))] == lines(tmp_path / "here")
    assert len(lines(record)) == ledger.total_rows + ledger.total_programmings
    assert ledger.total_programmings == 1
    rows = {each.capability.name: 2 * len(each.x) for each in queries if each.capability is not None}
    assert ledger.actions == rows


def test_a_served_mesh_of_an_experiment_is_planned_as_one_on_this_machine(keys, record):
    from blackprop.experiments.engine._hardware import Remote, _connected

    with served(lambda: mesh(record), keys) as server:
        device = Remote(address=(server.address,), keys=keys).make(4, 3)
        assert bp.plan(device, 16).name == bp.plan(mesh(record), 16).name == "in-situ"
        assert isinstance(device, RemoteDevice)
        device.close()
        _connected.cache_clear()


@pytest.mark.parametrize("wrong", [0.6, float("nan")])
@pytest.mark.parametrize("kind", [ReadBack, ReadBackField])
def test_a_served_device_refuses_backward_rows_beyond_its_limit(keys, record, kind, wrong):
    def make() -> bp.Device:
        device = mesh(record)
        weak = tuple(type(c)(**{**c.fields(), "limit": 0.5}) if isinstance(c, kind) else c for c in device.capabilities)
        device.capabilities = weak
        return device

    with (
        served(make, keys) as server,
        RemoteDevice(server.address, keys=keys, capabilities=KINDS) as device,
    ):
        assert device.declaration.capability(kind).limit == 0.5
        theta, rows, ledger = draw(device.theta.size, 1).flatten(), torch.zeros(3, 3), Ledger()
        rows[2, 1] = wrong
        query = Query(rows, theta, Purpose.PARAMETER, kind)
        with pytest.raises(errors.LimitError, match="row 2 of"):
            metered(device, ledger)([query])
        assert ledger == Ledger()
        device._connection.send(message(device, 1, [query]))  # of a client that does not check
        answer = device._connection.hear(5)
        assert answer is not None
        assert (answer.kind, answer["error"], answer["rows"]) == (say.ERROR, "LimitError", {})
    assert lines(record) == []


def trained(
    device: bp.Device, estimator: Estimator, surrogate: Callable[[], Surrogate], steps: int = 25
) -> tuple[list[Tensor], Ledger]:
    torch.manual_seed(0)
    layer = bp.PhysicalLayer(device, estimator, surrogate(), generator=torch.Generator().manual_seed(0))
    layer.generator.manual_seed(1)  # a served device draws its own initial values
    with torch.no_grad():
        layer.theta.copy_(0.8 * draw(layer.theta.numel(), 1, seed=3).flatten())
    model = torch.nn.Sequential(torch.nn.Linear(5, 4), layer)
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    start = [p.detach().clone() for p in model.parameters()]
    for step in range(steps):
        optimizer.zero_grad()
        (model(draw(4, 5, seed=step)) - 1).square().mean().backward()
        optimizer.step()
    weights = [p.detach().clone() for p in model.parameters()]
    assert not any(map(torch.equal, start, weights))
    return weights, layer.ledger


@pytest.mark.parametrize(("make", "estimator", "surrogate"), METHODS, ids=lambda each: getattr(each, "__name__", None))
def test_training_over_a_bad_link_ends_with_the_same_weights_and_nothing_is_measured_twice(
    keys, record, tmp_path, make, estimator, surrogate
):
    BadConnection.generator.manual_seed(1)
    BadConnection.lost = BadConnection.damaged = 0
    with (
        served(lambda: make(record, 0.0), keys) as server,
        OverBadConnection(server.address, keys=keys, capabilities=KINDS) as device,
    ):
        weights, ledger = trained(device, estimator, surrogate)
    smooth = tmp_path / "smooth"
    expected, undisturbed = trained(make(smooth, 0.0), estimator, surrogate)
    assert BadConnection.lost > 3
    assert BadConnection.damaged > 3
    assert same(weights, expected)
    assert ledger == undisturbed
    assert lines(record) == lines(smooth)


@each_device
def test_a_server_that_is_killed_between_rounds_costs_one_programming_and_no_row(keys, record, tmp_path, make):
    process, ledger = ServerProcess(keys, record, make=make), Ledger()
    try:
        with RemoteDevice(process.address, keys=keys, capabilities=KINDS) as device:
            for seed in range(2):
                queries = both_ways(device, seed)
                assert same(metered(device, ledger)(queries), here(make, queries, tmp_path / "here"))
                process.kill()
                process.start()
            queries = both_ways(device, 2)
            assert same(metered(device, ledger)(queries), here(make, queries, tmp_path / "here"))
    finally:
        process.kill()
    assert len(lines(record, "program")) == ledger.total_programmings == 3
    assert len(lines(record)) - 3 == ledger.total_rows
    assert lines(record) == lines(tmp_path / "here")


@pytest.mark.parametrize("repeat", [False, True])
@pytest.mark.parametrize(("make", "during"), [(mesh, "tap_powers"), (factored, "read_at_gains")])
def test_a_round_in_the_middle_of_which_the_server_was_killed_is_in_doubt(keys, record, tmp_path, make, during, repeat):
    """It is killed while the last kind of rows is read: those before it are measured, and no answer was sent."""
    process, ledger = ServerProcess(keys, record, seconds=0.4, make=make), Ledger()
    outcome: list[object] = []

    def ask() -> None:
        try:
            outcome.append(metered(device, ledger)(queries))
        except errors.DeviceError as error:
            outcome.append(error)

    try:
        with RemoteDevice(process.address, keys=keys, repeat_in_doubt=repeat, capabilities=KINDS) as device:
            queries = sorted(both_ways(device), key=lambda each: each.capability in (Taps, Gains))
            whole = here(make, queries, tmp_path / "here")
            thread = threading.Thread(target=ask)
            thread.start()
            assert eventually(lambda: bool(lines(record, during)), 20)
            process.kill()
            process.start()
            thread.join()
            booked = Ledger()
            metered(make(tmp_path / "booked", 0.0), booked)(queries)
            times = 2 if repeat else 1
            assert len(lines(record)) == times * len(lines(tmp_path / "here"))
            assert ledger.total_rows == times * booked.total_rows  # the one in doubt is booked, too
            assert ledger.actions == {name: times * amount for name, amount in booked.actions.items()}
            if repeat:
                assert isinstance(outcome[0], list)
                assert same(outcome[0], whole)
            else:
                assert isinstance(outcome[0], errors.InDoubtError)
            assert same(device.measure(queries), whole)
    finally:
        process.kill()


def answered(keys: Path) -> int:
    """The number of the last round whose answer is in the journal of the one session; 0 before the first."""
    (file,) = keys.rglob("*.answer")
    head = file.read_bytes()[:24]
    return int.from_bytes(head[16:24], "little") if head[8] == 2 else 0


@each_device
def test_an_answer_that_was_lost_with_the_server_comes_from_the_journal(keys, record, tmp_path, make):
    process = ServerProcess(keys, record, make=make)
    try:
        with RemoteDevice(process.address, keys=keys, capabilities=KINDS) as device:
            queries = both_ways(device)
            expected = here(make, queries, tmp_path / "here")
            device._connection.send(message(device, 1, queries))
            assert eventually(lambda: answered(keys) == 1, 20)
            process.kill()
            while device._connection.receive(0.1) is not None:  # the answer is lost
                pass
            process.start()
            assert same(device.measure(queries), expected)
    finally:
        process.kill()
    assert lines(record) == lines(tmp_path / "here")
