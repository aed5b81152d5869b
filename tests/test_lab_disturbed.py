"""Training over a bad line from a server that is killed: the short form of benchmarks/lab/disturbed.py."""

from __future__ import annotations

import copy
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from blackprop.core import Count
from blackprop.lab import RemoteDevice
from blackprop.lab.remote.shared._keys import make_keys
from serving import Recorder, lines, query, served

pytest.importorskip("sklearn")
BENCHMARKS = Path(__file__).parents[1] / "benchmarks" / "lab"


@pytest.fixture
def disturbed(monkeypatch):
    """The file as the command line imports it."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import disturbed  # pyright: ignore[reportMissingImports]

    yield disturbed
    for name in ("disturbed", "relay"):
        sys.modules.pop(name)


@pytest.fixture
def folder(tmp_path):
    make_keys(tmp_path / "keys")
    return tmp_path


@pytest.mark.parametrize(("method", "insecure"), [("default", False), ("row", True), ("two-way", False)])
def test_training_ends_where_it_ends_in_peace_and_measures_nothing_twice(disturbed, folder, method, insecure):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    task = disturbed.Digits(disturbed.DigitNetwork.HYBRID, epochs=1)
    try:
        peace = disturbed.trained(folder, task, method, insecure=insecure)
        ran = disturbed.trained(folder, task, method, kills=2, whole=peace.size, seed=3, insecure=insecure)
    finally:
        torch.set_num_threads(threads)
    verdict = disturbed.judged(peace, ran)
    assert verdict.holds, verdict
    assert ran.score > 0.7
    ways = {"read_back", "read_back_field", "taps"} if method == "two-way" else set()
    assert set(ran.ledger.actions) == set(peace.ledger.actions) == ways
    assert len(ran.lives) == 3
    assert ran.relay.lost
    assert ran.relay.corrupted
    assert verdict.again_nan
    # It would have been noticed.
    worse = replace(ran, lives=copy.deepcopy(ran.lives), weights=copy.deepcopy(ran.weights))
    worse.lives[0][0].right[next(iter(worse.lives[0][0].right))] += 1
    worse.lives[0][0].rows += 1
    next(iter(worse.weights.values())).view(-1)[0] += 1e-6
    found = disturbed.judged(peace, worse)
    assert (found.once, found.ledger, found.same_weights) == (False, False, False)


def test_a_forged_frame_ends_a_connection_and_not_the_client(disturbed, folder):
    record, line = folder / "record", disturbed.Relay
    with served(lambda: Recorder(record), folder / "keys") as server:
        relay = line(int(server.address.rpartition(":")[2]), lost=0.05, corrupted=0.1, seed=1)
        try:
            with RemoteDevice(f"tcp://127.0.0.1:{relay.port}", keys=folder / "keys") as device:
                for k in range(25):
                    (y,) = device.measure([query(k)])
                    assert torch.equal(y, query(k).x * query(k).theta)
                assert device.repeated() == device.in_doubt == Count()
        finally:
            relay.close()
    assert relay.corrupted > 3
    assert len(lines(record, "read")) == 50
