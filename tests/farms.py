"""Farms for tests: a clock, members that fail, and rounds."""

from __future__ import annotations

import threading
import time

import torch

import blackprop as bp
from blackprop import errors
from blackprop.core import Cost, Ledger, Purpose, Query, ask, metered, run
from blackprop.devices import Wrapper
from support import Opaque, backward, behind_a_linear, draw, make_layer

SLOW = Cost(programming=5e-3, row=1e-6)
FAST = Cost(programming=1e-6, row=1e-3)


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


class Ill(Wrapper):
    """Fails the rounds numbered in `at`, in the way given; says what it was asked."""

    def __init__(self, device, at=(), how=None):
        super().__init__(device)
        self.at, self.how, self.round = at, how or errors.UnreachableError("nobody answered"), 0
        self.threads = set()
        self.asked: list[list[Query]] = []

    def measure(self, queries):
        self.round += 1
        self.threads.add(threading.current_thread().name)
        self.asked.append(queries)
        readings = super().measure(queries)
        if self.round in self.at:
            if isinstance(self.how, Exception):
                raise self.how
            return [self.how(y) for y in readings]
        return readings


def opaque(cost=None, d_in=6, d_out=4):
    return Opaque(bp.devices.LightModulator(d_in, d_out, cost=cost))


def asked_of(*devices):
    """Rows and programmings that devices have really done."""
    return sum(len(x) for d in devices for x in d.rows), sum(len(d.written) for d in devices)


def round_of(count, rows=8, purpose=Purpose.PARAMETER, P=24):
    x = draw(rows, 6)
    return [Query(x, draw(P, seed=i), purpose) for i in range(count)]


def measured(device, queries, ledger=None):
    return run(ask(*queries), metered(device, ledger if ledger is not None else Ledger()))


def until_back(farm, queries, at):
    for _ in range(200):
        measured(farm, queries)
        if farm.members[at].in_service:
            return
        time.sleep(0.005)
    raise AssertionError(farm.members[at].reason)


def trained(device, steps=6):
    layer = make_layer(device)
    model = behind_a_linear(layer)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    losses = []
    for step in range(steps):
        optimizer.zero_grad()
        losses.append(float(backward(model, draw(16, 5, seed=step))))
        optimizer.step()
    return layer, losses
