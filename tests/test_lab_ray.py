"""A device in a Ray actor is the device itself: its answers, its errors, its bill, and what becomes of its death."""

from __future__ import annotations

import os
import re
import signal
import sys
import time
from functools import partial

import pytest
import torch

import blackprop as bp
from blackprop import errors
from blackprop._extras import install
from blackprop.core import Cost, Count, Ledger, Purpose, Query, ask, metered, run
from blackprop.lab import Farm, RayDevice, ray_members
from blackprop.lab.farm._ray_farm import _Host
from support import draw

ray = pytest.importorskip("ray", reason="needs the extra `ray`")


@pytest.fixture(scope="module", autouse=True)
def _cluster():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        on_sigterm = signal.getsignal(signal.SIGTERM)  # Ray takes it, and keeps it
        ray.init(num_cpus=2, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
        ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
        yield
        ray.shutdown()
        signal.signal(signal.SIGTERM, on_sigterm)


class Odd(bp.Device):
    """Fails in the way that its setting tells; counts every row twice, and has a state."""

    def __init__(self, number: int = 0) -> None:
        super().__init__(2, 2, 1, cost=Cost(programming=1e-3), noise=0.01)
        self.number, self.reads, self.again = number, 0, Count()

    def program(self, theta, /):
        self.fault = {
            1: errors.InterlockError("the door is open"),
            2: OSError("no cable"),
            3: RuntimeError("a bug"),
            4: TypeError("another bug"),
        }.get(int(theta[0]))

    def read(self, x, /):
        if self.fault is not None:
            raise self.fault
        self.reads += 1
        self.again.rows[Purpose.FORWARD] += len(x)
        return x + self.number

    def repeated(self):
        again, self.again = self.again, Count()
        return again

    def state_dict(self):
        return {"reads": self.reads, "process": os.getpid()}

    def load_state_dict(self, state, /):
        self.reads = int(state["reads"])

    def close(self):
        raise OSError("it would not park")


def mirror(number):
    del number
    return bp.devices.LightModulator(6, 4, cost=Cost(programming=1e-3))


def unlucky(number):
    if number == 1:
        raise RuntimeError("bench 1 is dark")
    return mirror(number)


def query(setting=0.0):
    return Query(draw(3, 2), torch.full((1,), float(setting)), Purpose.FORWARD)


def test_it_declares_answers_and_remembers_what_the_device_does():
    device, ledger = RayDevice(partial(Odd, 1)), Ledger()
    assert (device.in_shape, device.theta.size, device.cost.programming, device.noise) == ((2,), 1, 1e-3, 0.01)
    for dtype in (torch.float32, torch.float64):
        x = draw(3, 2, dtype=dtype)
        (y,) = run(ask(Query(x, torch.zeros(1, dtype=dtype), Purpose.FORWARD)), metered(device, ledger))
        assert torch.equal(y, x + 1)
    assert ledger.rows == {Purpose.FORWARD: 12}  # the device says that it was asked each row twice
    state = device.state_dict()
    assert state["reads"] == 2
    assert state["process"] != os.getpid()
    device.load_state_dict({"reads": 7})
    assert device.state_dict()["reads"] == 7
    with pytest.raises(KeyError):
        device.load_state_dict({})
    for setting, error, told in (
        (1, errors.InterlockError, "the door is open"),
        (2, OSError, "no cable"),
        (3, errors.DeviceError, "RuntimeError: a bug"),
        (4, TypeError, "another bug"),
    ):
        with pytest.raises(error, match=told):
            device.measure([query(setting)])
        assert device.programmed is None
    device.program(torch.zeros(1))
    assert torch.equal(device.read(draw(3, 2)), draw(3, 2) + 1)
    with pytest.raises(OSError, match="it would not park"):
        device.close()


def test_a_farm_of_actors_answers_as_one_device_and_goes_on_when_one_dies():
    members = ray_members(mirror, 2)
    queries = [Query(draw(8, 6), draw(24, seed=i), Purpose.PARAMETER) for i in range(6)]
    wanted = mirror(0).measure(queries)
    with Farm(members, backoff=0.1) as farm:
        before = members[0]._actor
        for _ in range(3):
            assert all(torch.equal(*pair) for pair in zip(wanted, farm.measure(queries), strict=True))
        ray.kill(before, no_restart=False)
        deadline, out = time.monotonic() + 60, False
        while time.monotonic() < deadline and not (out and farm.members[0].in_service):
            assert all(torch.equal(*pair) for pair in zip(wanted, farm.measure(queries), strict=True))
            out = out or not farm.members[0].in_service
            time.sleep(0.02)
        assert out
        assert farm.members[0].in_service
        assert farm.members[0].faults >= 1


def test_what_cannot_be_made_is_refused_and_leaves_no_actor_behind():
    with pytest.raises(errors.DeviceError, match="the factory failed: RuntimeError: bench 1 is dark"):
        ray_members(unlucky, 2)
    with pytest.raises(errors.UnreachableError, match="not answered within"):
        RayDevice(partial(mirror, 0), resources={"a bench that is not there": 1}, timeout=0.5)
    deadline = time.monotonic() + 10
    while ray.available_resources().get("CPU", 0) < 2 and time.monotonic() < deadline:
        time.sleep(0.1)
    assert ray.available_resources()["CPU"] == 2


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: RayDevice(3), "factory"),  # pyright: ignore[reportArgumentType]
        (lambda: RayDevice(partial(mirror, 0), timeout=0), "timeout"),
        (lambda: ray_members(mirror, 0), "count"),
    ],
)
def test_wrong_arguments_are_refused(make, told):
    with pytest.raises(errors.ArgumentError, match=told):
        make()


def test_a_factory_that_makes_no_device_is_told():
    _, fault, _ = _Host(lambda: 3).about()  # pyright: ignore[reportArgumentType]
    assert isinstance(fault, errors.ArgumentError | errors.DeviceError)
    assert "the factory failed: it returned a int" in str(fault)


def test_without_a_cluster_it_says_what_to_do(monkeypatch):
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with pytest.raises(errors.ArgumentError, match=r"ray\.init"):
        RayDevice(partial(mirror, 0))
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(errors.ArgumentError, match=re.escape(install("ray"))):
        RayDevice(partial(mirror, 0))
