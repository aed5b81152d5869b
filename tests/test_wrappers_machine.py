"""Wrappers under random sequences of calls: readings stay right, and the ledger equals what the device was asked."""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from torch import Tensor

import blackprop as bp
from blackprop.core import Ledger, Purpose, Query, ask, metered, run
from blackprop.errors import IncompatibleError

P, ROWS = 6, 4
GENERATOR = torch.Generator().manual_seed(0)
SETTINGS = [torch.rand(P, generator=GENERATOR) for _ in range(3)]
BLOCKS = [torch.randn(n, 3, generator=GENERATOR) for n in (0, 1, ROWS)]


class Inner(bp.Device):
    """y = x A(θ)ᵀ; it counts every row that it is sent and every setting that is written to it."""

    def __init__(self) -> None:
        super().__init__(3, 2, bp.ThetaSpec(P, low=0.0, high=1.0), linear=True)
        self.rows = self.writes = 0
        self.held: Tensor | None = None

    def program(self, theta: Tensor, /) -> None:
        self.writes += 1
        self.held = theta.clone()

    def read(self, x: Tensor, /) -> Tensor:
        assert self.held is not None
        self.rows += len(x)
        return answer(x, self.held)


def answer(x: Tensor, theta: Tensor) -> Tensor:
    return x @ theta.view(2, 3).mT


def farm(device: bp.Device) -> bp.Device:
    return bp.lab.Farm([device])


def moving_slowly(device: bp.Device) -> bp.Device:
    return bp.lab.Guarded(device, slew=0.25)


WRAPPERS: list[Any] = [
    bp.devices.Noisy,
    bp.devices.Drifting,
    lambda device: bp.devices.Quantised(device, theta_bits=24),
    lambda device: bp.devices.Declared(device, linear=True),
    lambda device: bp.devices.Chain(device),  # noqa: PLW0108
    bp.lab.Guarded,
    moving_slowly,
    bp.lab.Checked,
    lambda device: bp.lab.Retrying(device, base=0.0),
    lambda device: bp.lab.Retrying(bp.lab.Faulty(device, timeout=0.2, duplicated=0.2), 40, base=0.0),
    farm,
]
QUERIES = st.lists(
    st.tuples(st.integers(0, 2), st.integers(0, 2), st.sampled_from(list(Purpose))), min_size=1, max_size=5
)


class Wrappers(RuleBasedStateMachine):
    """A device in up to three wrappers, asked in any order by the driver and by hand."""

    @initialize(chosen=st.lists(st.sampled_from(range(len(WRAPPERS))), max_size=3))
    def build(self, chosen: list[int]) -> None:
        self.inner = Inner()
        self.device: bp.Device = self.inner
        for number in chosen:
            if WRAPPERS[number] is moving_slowly and not self.device.single:
                with pytest.raises(IncompatibleError, match="guard the members"):
                    moving_slowly(self.device)
                continue
            self.device = WRAPPERS[number](self.device)
        self.ledger = Ledger()
        self.by_hand = [0, 0]  # rows and programmings that no driver has booked
        self.measure = metered(self.device, self.ledger)

    @rule(queries=QUERIES, joined=st.booleans())
    def ask(self, queries: list[tuple[int, int, Purpose]], joined: bool) -> None:
        asked = [Query(BLOCKS[x], SETTINGS[t], purpose) for x, t, purpose in queries]
        for each in [asked] if joined else [[query] for query in asked]:
            for y, query in zip(run(ask(*each), self.measure), each, strict=True):
                torch.testing.assert_close(y, answer(query.x, query.theta), rtol=1e-4, atol=1e-4)

    @rule(x=st.integers(1, 2), t=st.integers(0, 2))
    def by_hand_and_forget(self, x: int, t: int) -> None:
        """Use by hand is told by `forget`, which every wrapper hands on."""
        before = self.inner.rows, self.inner.writes
        self.inner.program(SETTINGS[t])
        self.inner.read(BLOCKS[x])
        self.by_hand = [
            n + now - was
            for n, now, was in zip(self.by_hand, (self.inner.rows, self.inner.writes), before, strict=True)
        ]
        self.device.forget()

    @rule()
    def save_and_load(self) -> None:
        self.device.load_state_dict(self.device.state_dict())

    @invariant()
    def the_ledger_is_what_the_device_was_asked(self) -> None:
        if not hasattr(self, "inner"):
            return
        asked = self.inner.rows - self.by_hand[0], self.inner.writes - self.by_hand[1]
        assert (self.ledger.total_rows, self.ledger.total_programmings) == asked

    @invariant()
    def the_setting_that_is_noted_is_the_one_that_is_held(self) -> None:
        if hasattr(self, "inner") and self.device.single and self.inner.programmed is not None:
            assert self.inner.held is not None
            assert torch.equal(self.inner.programmed, self.inner.held)

    def teardown(self) -> None:
        device: Any = getattr(self, "device", None)
        while device is not None:
            if isinstance(device, bp.lab.Farm):
                device.close()
                return
            device = getattr(device, "device", None)


TestWrappers = Wrappers.TestCase
TestWrappers.settings = settings(max_examples=60, stateful_step_count=12, deadline=None)
