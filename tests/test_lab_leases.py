"""Leases: fair, first come first served, and the dead give the device free. The clock is a number."""

from __future__ import annotations

import math
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blackprop.errors import ArgumentError
from blackprop.lab.remote.server._leases import Leases


def test_the_first_keeps_the_device_while_nobody_waits():
    leases = Leases(30, 10)
    leases.want("a", 0)
    assert leases.turn(0, {"a"}) == "a"
    leases.seen("a", 25)
    assert leases.expire(50) == []
    leases.want("a", 50)
    assert leases.turn(50, {"a"}) == "a"


def test_a_turn_ends_at_the_end_of_a_round_when_another_waits():
    leases = Leases(30, 10)
    leases.want("a", 0)
    assert leases.turn(0, {"a"}) == "a"
    leases.want("b", 1)
    assert leases.place("b") == 1
    assert leases.turn(9, {"a", "b"}) == "a"
    assert leases.turn(10, {"a", "b"}) == "b"
    assert leases.place("a") == 1
    assert leases.turn(20, {"a", "b"}) == "a"


def test_a_holder_that_asks_nothing_keeps_its_turn_and_no_longer():
    leases = Leases(30, 10)
    leases.want("a", 0)
    leases.turn(0, {"a"})
    leases.want("b", 1)
    assert leases.turn(5, {"b"}) is None
    assert leases.turn(10, {"b"}) == "b"
    assert leases.waiting == ()


def test_the_silent_lose_their_lease_and_their_place():
    leases = Leases(30, 100)
    for client in "abc":
        leases.want(client, 0)
    assert leases.turn(0, set("abc")) == "a"
    leases.seen("c", 20)
    assert sorted(leases.expire(31)) == ["a", "b"]
    assert leases.turn(31, {"c"}) == "c"


def test_who_is_being_measured_is_not_silent():
    leases = Leases(30, 100)
    leases.want("a", 0)
    leases.turn(0, {"a"})
    assert leases.expire(1000, measuring="a") == []
    assert leases.expire(1000) == ["a"]


def test_leaving_frees_the_device():
    leases = Leases(30, 10)
    leases.want("a", 0)
    leases.turn(0, {"a"})
    leases.want("b", 0)
    assert not leases.leave("b")
    assert leases.leave("a")
    assert leases.holder is None
    assert leases.turn(1, set()) is None


@given(st.integers(2, 5), st.integers(1, 9))
@settings(deadline=None)
def test_clients_that_always_want_get_equal_shares_in_order(clients, turn):
    leases, names, shares, now = Leases(1000, turn), [str(i) for i in range(clients)], Counter[str](), 0
    order = []
    for now in range(clients * turn * 6):
        for name in names:
            leases.want(name, now)
        holder = leases.turn(now, set(names))
        assert holder is not None
        shares[holder] += 1
        order += [holder] if order[-1:] != [holder] else []
    assert max(shares.values()) == min(shares.values())
    assert order == names * 6


@pytest.mark.parametrize("lease", [1e-4, 8 * 86400, 1e300, math.inf, math.nan, -math.inf])
def test_a_lease_is_a_time_that_clients_can_be_told(lease):
    with pytest.raises(ArgumentError, match=r"from 0\.001 to 604,800 s"):
        Leases(lease, 1)
    with pytest.raises(ArgumentError, match="must be positive"):
        Leases(1, math.nan)
    assert Leases(604_800, math.inf).turn_seconds == math.inf  # a turn may last


@pytest.mark.parametrize(("lease", "turn"), [(0, 1), (1, 0), (-1, 1)])
def test_times_are_positive(lease, turn):
    with pytest.raises(ArgumentError, match="must be positive"):
        Leases(lease, turn)


def test_an_owner_gets_the_share_of_one_however_many_clients_it_sends():
    leases, shares = Leases(1000, 1), Counter[str]()
    owners = {"a": b"alone", **{f"m{k}": b"many" for k in range(20)}}
    for now in range(400):
        for client, owner in owners.items():
            leases.want(client, now, owner)
        holder = leases.turn(now, set(owners))
        assert holder is not None
        shares[holder] += 1
    assert shares["a"] == 200
    assert {shares[client] for client in owners if client != "a"} == {10}


def test_new_sessions_of_an_owner_do_not_go_before_others():
    """Each round in a session of its own, which is left afterwards."""
    leases, turns = Leases(1000, 1), []
    for now in range(40):
        leases.want("a", now, b"alone")
        for k in range(3):
            leases.want(f"{now}.{k}", now, b"many")
        holder = leases.turn(now, {"a", *leases.waiting, *([leases.holder] if leases.holder else [])})
        turns.append(holder == "a")
        if holder != "a":
            leases.leave(holder)
    assert sum(turns) == 20


def test_a_place_in_the_queue_is_the_order_of_service():
    leases = Leases(1000, 1)
    for client in ("m0", "m1", "m2", "a", "b"):
        leases.want(client, 0, b"many" if client.startswith("m") else client.encode())
    assert leases.waiting == ("m0", "a", "b", "m1", "m2")
    assert [leases.place(client) for client in ("m0", "a", "b", "m1", "m2")] == [0, 1, 2, 3, 4]
    served = []
    for now in range(5):
        served.append(leases.turn(now, {"m0", "m1", "m2", "a", "b"}))
        leases.leave(str(served[-1]))
    assert served == ["m0", "a", "b", "m1", "m2"]
