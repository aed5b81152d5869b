"""Rounds of many queries at a server: the device is asked in parts, and no object a query outlives its part."""

from __future__ import annotations

import gc
import time
from pathlib import Path

import numpy as np
import pytest
import torch

import blackprop as bp
from blackprop.core import Ledger, Purpose, Query, Round, metered
from blackprop.errors import InDoubtError, InterlockError, LimitError, UnreachableError
from blackprop.lab import Guarded, RemoteDevice
from blackprop.lab.remote.client._connection import Connection
from blackprop.lab.remote.server import _asking
from blackprop.lab.remote.server._asking import AT_A_TIME, answered
from blackprop.lab.remote.shared import _messages as say
from blackprop.lab.remote.shared import _rounds as rounds
from blackprop.lab.remote.shared import _wire as wire
from serving import Recorder, ServerProcess, lines, served
from support import draw


class Scale(bp.Device):
    """y = x · θ; notes the size of each part, the settings written, and the queries that exist meanwhile."""

    def __init__(self) -> None:
        super().__init__(3, 3, bp.ThetaSpec(3, low=-2.0, high=2.0), linear=True)
        self.parts: list[int] = []
        self.alive: list[int] = []
        self.written = 0
        self.gone_after: int | None = None

    def program(self, theta, /):
        self.held, self.written = theta.clone(), self.written + 1

    def read(self, x, /):
        return x * self.held

    def measure(self, queries, /):
        if len(self.parts) == self.gone_after:
            raise UnreachableError("gone")
        self.parts.append(len(queries))
        readings = super().measure(queries)
        self.alive.append(sum(type(thing) is Query for thing in gc.get_objects()))
        return readings


def long_round(queries: int, settings: int) -> Round:
    """Each setting serves consecutive queries of one to three rows."""
    thetas = list(draw(settings, 3, seed=1).clamp(-2, 2))
    xs = [draw(rows, 3, seed=rows) for rows in (1, 2, 3)]
    return Round.of(
        Query(xs[i % 3], thetas[i * settings // queries], Purpose.PARAMETER if i % 7 else Purpose.FORWARD)
        for i in range(queries)
    )


@pytest.mark.parametrize("settings", [1, 700, 3 * AT_A_TIME + 5])
def test_a_long_round_is_measured_in_parts_with_the_readings_and_the_ledger_of_one(keys, settings):
    asked, scale = long_round(3 * AT_A_TIME + 5, settings), Scale()
    local = Scale()
    with served(lambda: scale, keys) as server, RemoteDevice(server.address, keys=keys) as device:
        ledger, expected = Ledger(), Ledger()
        readings = metered(device, ledger)(asked)
        for y, right in zip(readings, metered(local, expected)(asked), strict=True):
            assert torch.equal(y, right)
        assert (ledger.rows, ledger.programmings) == (expected.rows, expected.programmings)
    assert scale.parts == [AT_A_TIME] * 3 + [5]
    assert scale.written == local.written == ledger.total_programmings  # none is written again where a part begins


def test_the_server_makes_no_object_for_the_queries_of_other_parts():
    asked, scale = long_round(8 * AT_A_TIME, 8 * AT_A_TIME), Scale()
    sent = rounds.unpack(rounds.pack(asked), scale.declaration)
    del asked
    gc.collect()
    before = sum(type(thing) is Query for thing in gc.get_objects())
    joined, (readings,) = answered(Guarded(scale), sent, scale.declaration)
    assert joined
    assert len(readings) == sum(sent.sizes())
    assert max(scale.alive) <= before + 2 * AT_A_TIME
    assert sum(type(thing) is Query for thing in gc.get_objects()) <= before + 2 * AT_A_TIME


def test_an_interlock_agrees_to_a_whole_round_before_a_part_is_measured():
    scale, asked = Scale(), long_round(2 * AT_A_TIME, 2 * AT_A_TIME)
    last = asked.settings[-1]
    guard = Guarded(scale, interlock=lambda theta, x: "the last" if torch.equal(theta, last) else None)
    with pytest.raises(InterlockError, match="the last"):
        answered(guard, asked, scale.declaration)
    assert scale.parts == []
    inside = Guarded(bp.devices.Noisy(guard, read=0.0))
    guard.reset()
    with pytest.raises(InterlockError, match="the last"):
        answered(inside, asked, scale.declaration)
    assert scale.parts == []


def test_a_device_lost_between_two_parts_leaves_the_round_in_doubt():
    scale, asked = Scale(), long_round(2 * AT_A_TIME, 2)
    scale.gone_after = 0
    with pytest.raises(UnreachableError):
        answered(Guarded(scale), asked, scale.declaration)
    scale.gone_after = 1
    with pytest.raises(InDoubtError, match="after a part of the round was measured"):
        answered(Guarded(scale), asked, scale.declaration)


def test_a_round_is_checked_once_for_all_its_parts(monkeypatch):
    scale, checks = Scale(), []
    monkeypatch.setattr(_asking, "AT_A_TIME", 16)
    asked = long_round(64, 64)
    real = bp.ThetaSpec.check_all
    monkeypatch.setattr(bp.ThetaSpec, "check_all", lambda spec, all_: (checks.append(len(all_)), real(spec, all_))[1])
    answered(Guarded(scale), asked, scale.declaration)
    assert scale.parts == [16] * 4
    assert checks == [64]


@pytest.mark.parametrize("wrong", [2.5, -2.5, float("nan"), float("inf")])
@pytest.mark.parametrize("low", [-2.0, torch.tensor([-2.0, -3.0, -2.0])])
def test_the_first_setting_outside_the_limits_is_found_among_many(wrong, low):
    spec = bp.ThetaSpec(3, low=low, high=2.0)
    settings = torch.zeros(1000, 3)
    spec.check_all(settings)
    settings[700, 2], settings[900, 1] = wrong, 9.0
    with pytest.raises(LimitError, match=r"theta\[2\]"):
        spec.check_all(settings)


def test_settings_whose_sum_overflows_are_not_refused():
    bp.ThetaSpec(3).check_all(torch.full((4, 3), 3e38))


def resident(pid: int) -> float:
    """MiB."""
    return int(Path(f"/proc/{pid}/status").read_text().split("VmRSS:")[1].split()[0]) / 1024


def test_refused_rounds_of_many_queries_leave_no_memory_behind(keys, record):
    """A tensor was made for each setting of a refused round, and 155 MiB stayed."""
    server, n = ServerProcess(keys, record), rounds.QUERIES
    connection = Connection(server.address, keys)
    settings, table, rest = np.zeros((n, 3), np.float32), np.zeros((n, 5), np.int64), []
    settings[-1] = 3  # outside the limits
    table[:, 1], table[:, 2] = 1, np.arange(n)
    try:
        welcome = connection.request(say.HELLO, say.WELCOME, 20, resume="")
        before = resident(server.process.pid or 0)
        for number in range(1, 5):
            fields = {"id": number, "session": welcome["session"], "boot": welcome["boot"], "fresh": False}
            arrays = [np.ones((1, 3), np.float32), settings, table]
            connection.send(wire.encode(say.ROUND, {**fields, "kinds": ["read"]}, arrays))
            reply = connection.hear(60)
            assert reply is not None
            assert reply["error"] == "LimitError"
            time.sleep(0.2)
            rest.append(resident(server.process.pid or 0))
    finally:
        connection.close()
        server.kill()
    assert min(rest) - before < 10, (before, rest)


def spending_one_by_one(asked: Round, programmed: torch.Tensor | None) -> tuple[dict, dict]:
    rows, programmings = {}, {}
    for query in asked:
        rows[query.purpose] = rows.get(query.purpose, 0) + len(query.x)
        if programmed is None or not torch.equal(programmed, query.theta):
            programmings[query.purpose] = programmings.get(query.purpose, 0) + 1
        programmed = query.theta
    return rows, programmings


@pytest.mark.parametrize("seed", range(8))
def test_programmings_are_counted_by_the_values_of_settings(seed):
    """Settings of other places in the round may be equal; a round without a query has no cost."""
    draws = np.random.default_rng(seed)
    n = int(draws.integers(0, 40))
    settings = torch.from_numpy(draws.integers(0, 2, (6, 2))).float()
    table = np.stack([draws.integers(0, top, n) for top in (1, 4, 6, 5, 1)], 1).astype(np.int64)
    asked = Round([torch.ones(4, 3)], settings, table)
    for programmed in (None, settings[0].clone(), torch.full((2,), 7.0)):
        spent = asked.spending(programmed)
        assert (dict(spent.rows), dict(spent.programmings)) == spending_one_by_one(asked, programmed)
    ends = [run.last for run in asked.runs]
    assert [run.first for run in asked.runs] == [0, *ends][: len(ends)]
    assert ends[-1:] == [n][: len(ends)]


def test_a_recorder_sees_the_rows_of_a_long_round_in_order(keys, record):
    asked = long_round(AT_A_TIME + 3, 2)
    with served(lambda: Recorder(record), keys) as server, RemoteDevice(server.address, keys=keys) as device:
        device.measure(asked)
    rows = [row for query in asked for row in query.x.tolist()]
    assert lines(record, "read") == [f"read {row}" for row in rows]
