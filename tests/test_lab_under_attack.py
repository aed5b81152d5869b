"""Honest clients beside an attacker: the short form of benchmarks/lab/attacks.py."""

from __future__ import annotations

import statistics
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks" / "lab"


@pytest.fixture
def attacks(monkeypatch):
    """The file as the command line imports it."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import attacks  # pyright: ignore[reportMissingImports]

    yield attacks
    for name in ("attacks", "fuzz"):
        sys.modules.pop(name)


def test_honest_clients_are_served_beside_an_attacker(attacks, tmp_path):
    names = ["greets", "raises", "spare_settings"]
    results = dict(attacks.run(tmp_path, names, [20], 3, 1.0))
    assert set(results) == {"20 clients", "peace", *names}
    for name, result in results.items():
        assert not result.failures, name
        assert result.grown < attacks.GROWTH, name
        assert len(result.waits) > 20, name
        # Waits are for a quiet machine; the server's own time says what an attack costs.
        assert statistics.quantiles(result.work or [0.0, 0.0], n=20)[-1] < result.own, name


def test_a_wait_is_what_is_left_beside_the_rounds_of_others(attacks, tmp_path):
    """By hand: sent at 1 s, answered at 2 s; another's round from 0.9 to 1.2 s, one's own, and another's after it."""
    notes = tmp_path / "notes"
    rounds = [(0.1, 0.2, 5.0), (0.9, 1.2, 5.0), (1.3, 1.4, 7.0), (2.5, 2.6, 5.0)]
    notes.write_bytes(b"".join(attacks.NOTE.pack(*times, 0.0, 0.0) for times in rounds))
    found = attacks.Honest(rounds=[(1.0, 2.0, 7.0)])
    assert found.waits(notes, 0.01) == [pytest.approx(1.0 - 0.2 - 0.01)]
    assert attacks.Result(found.failures, found.waits(notes, 0.01), 0.3, 0.0).late == 1
