"""A training step of the default is short: how many Python calls of the library it makes."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable
from types import FrameType

import torch

import blackprop as bp
from support import draw

MOST = 80  # calls, of functions, generators and comprehensions
LOOKS = 14  # times that a number decides on the host: each waits for the device of the tensors


def training_step() -> Callable[[], None]:
    """A step of the default, after a few of them."""
    layer = bp.PhysicalLayer(bp.devices.LightModulator(16, 16))
    optimizer = torch.optim.SGD(layer.parameters(), 1e-2)

    def step() -> None:
        optimizer.zero_grad()
        layer(draw(8, 16).requires_grad_()).square().mean().backward()
        optimizer.step()

    for _ in range(3):
        step()
    return step


def test_a_step_of_the_default_looks_at_few_numbers():
    step = training_step()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        step()
    looks = {e.key: e.count for e in profile.key_averages() if e.key in ("aten::_local_scalar_dense", "aten::equal")}
    assert sum(looks.values()) <= LOOKS, looks


def test_a_step_of_the_default_makes_few_calls():
    step = training_step()
    calls: Counter[str] = Counter()

    def count(frame: FrameType, event: str, argument: object) -> None:
        del argument
        if event == "call" and "/blackprop/" in frame.f_code.co_filename:
            calls[f"{frame.f_code.co_filename.rpartition('/blackprop/')[2]} {frame.f_code.co_qualname}"] += 1

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        step()
    finally:
        sys.setprofile(before)
    assert calls.total() <= MOST, calls.most_common(20)
    assert calls["core/_metered.py _check_readings"] == 1  # one round a step
    assert calls["core/_round.py Round.check"] == 1
