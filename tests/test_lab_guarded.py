"""Nothing outside its limits reaches a guarded device, and it is never left where it should not stay."""

from __future__ import annotations

import gc
import subprocess
import sys
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import blackprop as bp
from blackprop.core import Ledger, Purpose, Query, metered
from blackprop.devices import Device, LightModulator, Matrix, Noisy
from blackprop.errors import ArgumentError, BlackpropError, DeviceError, InterlockError, LimitError, ShapeError
from blackprop.lab import Guarded
from blackprop.testing import check_device
from support import draw


class Bench(Device):
    """An instrument of 3 parameters: keeps what it was written, and fails on demand."""

    def __init__(self, **limits) -> None:
        super().__init__(2, 3, bp.ThetaSpec(3, **limits))
        self.written: list[Tensor] = []
        self.rows = 0
        self.broken: Exception | None = None
        self.jammed: Exception | None = None

    def program(self, theta: Tensor, /) -> None:
        if self.jammed is not None:
            raise self.jammed
        self.written.append(theta.clone())

    def read(self, x: Tensor, /) -> Tensor:
        if self.broken is not None:
            raise self.broken
        self.rows += len(x)
        return x.sum(1, keepdim=True) * self.written[-1]

    @property
    def settings(self) -> list[list[float]]:
        return [theta.tolist() for theta in self.written]


def _queries(*thetas: list[float], rows: int = 2) -> list[Query]:
    x = draw(rows, 2)
    return [Query(x, torch.tensor(theta), Purpose.PARAMETER) for theta in thetas]


PARK = torch.tensor([0.0, 0.0, 0.0])


@pytest.mark.parametrize("wrong", [[0.0, 1.1, 0.0], [0.0, -0.6, 0.0], [float("nan"), 0, 0], [0, 0, float("inf")]])
@pytest.mark.parametrize("verb", ["measure", "program"])
def test_a_setting_outside_the_tighter_limits_is_refused_before_anything_is_written(wrong, verb):
    bench = Bench(low=-0.5, high=torch.tensor([3.0, 3.0, 0.5]))
    guard = Guarded(bench, low=-1.0, high=1.0)
    fine = _queries([0.0, 1.0, 0.5])
    with pytest.raises(LimitError, match=r"theta\[\d\]"):
        guard.measure(fine + _queries(wrong)) if verb == "measure" else guard.program(torch.tensor(wrong))
    assert not bench.written
    guard.measure(fine)
    assert bench.settings == [[0.0, 1.0, 0.5]]
    low, high = guard.theta.bounds(torch.zeros(3))
    assert (low.tolist(), high.tolist()) == (-0.5, [1.0, 1.0, 0.5])


def test_training_clamps_to_the_tighter_limits_and_starts_within_them():
    guard = Guarded(LightModulator(6, 4), low=1.55, high=1.6)
    layer = bp.PhysicalLayer(guard, *bp.presets.paper(rank=2, samples=3), generator=torch.Generator().manual_seed(0))
    assert bool(((layer.theta >= 1.55) & (layer.theta <= 1.6)).all())
    assert len(layer.theta.unique()) > 2
    optimizer = torch.optim.SGD(layer.parameters(), lr=5.0)
    for _ in range(3):
        optimizer.zero_grad()
        layer(draw(5, 6).requires_grad_()).square().sum().backward()
        optimizer.step()
    assert bool(((guard.programmed >= 1.55) & (guard.programmed <= 1.6)).all())


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.lists(
            st.lists(
                st.floats(-4, 4, width=32) | st.sampled_from([float("nan"), float("inf")]), min_size=2, max_size=4
            ),
            max_size=4,
        ),
        max_size=6,
    ),
    st.booleans(),
)
def test_whatever_is_asked_nothing_outside_reaches_the_device(rounds, slew):
    bench = Bench(low=-3.0)
    guard = Guarded(bench, low=-2.0, high=2.5, slew=0.7 if slew else None, park=PARK)
    for thetas in rounds:
        try:
            guard.measure(_queries(*thetas))
        except BlackpropError as error:
            assert isinstance(error, (LimitError, ShapeError))  # noqa: PT017
    for theta in bench.written:
        assert theta.shape == (3,)
        assert bool(((theta >= -2.0) & (theta <= 2.5)).all())
    if slew:
        assert all(float((b - a).abs().max()) <= 0.7 + 1e-6 for a, b in pairwise(bench.written))


def test_wrong_rows_are_refused():
    guard, theta = Guarded(Bench()), torch.zeros(3)
    for x, kind in ((draw(2, 3), ShapeError), (torch.tensor([[1.0, float("nan")]]), LimitError)):
        with pytest.raises(kind):
            guard.measure([Query(x, theta, Purpose.FORWARD)])
    guard.measure([Query(torch.full((2, 2), 3e38), theta, Purpose.FORWARD)])  # their sum overflows, and they are fine


def test_a_long_way_is_written_in_steps_and_each_is_booked():
    bench, ledger = Bench(period=6.0), Ledger()
    guard = Guarded(bench, slew=0.5)
    measure = metered(guard, ledger)
    measure(_queries([0.0, 0.0, 0.0], [1.2, 0.0, -0.6], [1.2, 0.0, -0.6], [1.2, 0.4, -0.6]))
    expected = [[0, 0, 0], [0.4, 0, -0.2], [0.8, 0, -0.4], [1.2, 0, -0.6], [1.2, 0.4, -0.6]]
    assert torch.allclose(torch.stack(bench.written), torch.tensor(expected, dtype=torch.float32))
    assert ledger.programmings == {Purpose.PARAMETER: 5}
    assert ledger.total_rows == bench.rows == 8
    measure(_queries([1.2, 0.4, -0.6], [1.2, -5.1, -0.6]))  # the shorter way round the period is not taken
    assert len(bench.written) == ledger.total_programmings == 5 + 12
    assert all(float((b - a).abs().max()) <= 0.5 for a, b in pairwise(bench.written))


def test_with_a_parking_setting_the_way_begins_there():
    bench, ledger = Bench(), Ledger()
    guard = Guarded(bench, slew=0.5, park=PARK)
    metered(guard, ledger)(_queries([0.9, 0.0, 0.0]))
    assert bench.settings[0] == [0, 0, 0]
    assert len(bench.written) == ledger.total_programmings == 3
    guard.park()
    assert torch.allclose(bench.written[-2], torch.tensor([0.45, 0.0, 0.0]))
    assert bench.settings[-1] == [0, 0, 0]
    metered(guard, ledger)(_queries([0.0, 0.0, 0.0]))  # it is there, and may not know it
    assert len(bench.written) == ledger.total_programmings


def test_after_a_failed_write_the_way_goes_on_from_either_place():
    bench = Bench()
    guard = Guarded(bench, slew=0.5)
    guard.measure(_queries([0.0, 0.0, 0.0]))
    bench.jammed = OSError("stuck screw")
    with pytest.raises(OSError, match="stuck screw"):
        guard.measure(_queries([0.9, 0.0, 0.0]))
    bench.jammed = None
    guard.measure(_queries([0.9, 0.0, 0.0]))
    assert all(float((b - a).abs().max()) <= 0.5 for a, b in pairwise(bench.written))
    assert torch.allclose(bench.written[-1], torch.tensor([0.9, 0.0, 0.0]))


def test_rows_wait_and_none_is_dropped():
    now, slept = [100.0], []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        now[0] += seconds

    bench = Bench()
    guard = Guarded(bench, rows_per_second=10.0, clock=lambda: now[0], sleep=sleep)
    for rows in (5, 3, 20, 1):
        (y,) = guard.measure(_queries([0.0, 0.0, 0.0], rows=rows))
        assert len(y) == rows
    assert slept == pytest.approx([0.5, 0.3, 2.0])
    now[0] += 50.0
    guard.measure(_queries([0.0, 0.0, 0.0]))
    assert len(slept) == 3
    assert bench.rows == 31


@pytest.mark.parametrize(("verdict", "words"), [("door open", "door open"), (False, "no reason"), (None, None)])
def test_an_interlock_can_veto_and_stays_closed_until_reset(verdict, words):
    bench, seen = Bench(), []

    def interlock(theta: Tensor, x: Tensor) -> str | bool | None:
        seen.append((theta.tolist(), len(x)))
        return verdict if float(theta[0]) > 1 else None

    guard = Guarded(bench, interlock=interlock, slew=1.0, park=PARK)
    guard.measure(_queries([0.5, 0.0, 0.0]))
    assert seen == [([0, 0, 0], 0), ([0.5, 0, 0], 2)]
    bench.written.clear()
    if words is None:
        guard.measure(_queries([2.0, 0.0, 0.0]))
        return
    with pytest.raises(InterlockError, match=words):
        guard.measure(_queries([0.6, 0.0, 0.0], [2.0, 0.0, 0.0]))
    assert bench.settings == [[0, 0, 0]]  # parked, and nothing of the round was written
    assert guard.programmed is None
    for refused in (
        lambda: guard.measure(_queries([0.0, 0.0, 0.0])),
        lambda: guard.program(PARK),
        lambda: guard.read(draw(1, 2)),
    ):
        with pytest.raises(InterlockError, match=words):
            refused()
    assert bench.settings == [[0, 0, 0]]
    guard.reset()
    guard.measure(_queries([0.5, 0.0, 0.0]))
    assert bench.settings[-1] == [0.5, 0, 0]


def test_an_interlock_that_fails_says_no():
    bench = Bench()
    guard = Guarded(bench, interlock=lambda theta, x: str(1 / 0))
    with pytest.raises(InterlockError, match="ZeroDivisionError"):
        guard.measure(_queries([0.0, 0.0, 0.0]))
    assert not bench.written


@pytest.mark.parametrize("layers", [lambda device: device, lambda device: Noisy(device, read=0.0)])
def test_an_error_of_the_device_parks_it_and_the_setting_is_forgotten(layers):
    bench, ledger = Bench(), Ledger()
    guard = Guarded(layers(bench), park=PARK)
    measure = metered(guard, ledger)
    measure(_queries([1.0, 0.0, 0.0]))
    bench.broken = RuntimeError("no light")
    with pytest.raises(RuntimeError, match="no light"):
        measure(_queries([1.0, 0.0, 0.0]))
    assert bench.settings == [[1, 0, 0], [0, 0, 0]]
    assert guard.programmed is None
    assert ledger.programmings[Purpose.CALIBRATE] == 1
    bench.broken = None
    measure(_queries([1.0, 0.0, 0.0]))  # it is written again: nobody believes it is still there
    assert bench.settings == [[1, 0, 0], [0, 0, 0], [1, 0, 0]]
    assert ledger.total_programmings == 3


def test_parking_twice_writes_once_and_a_block_parks_at_its_end():
    bench = Bench()
    with Guarded(bench, park=PARK) as guard:
        guard.measure(_queries([1.0, 0.0, 0.0]))
    guard.close()
    guard.park()
    assert bench.settings == [[1, 0, 0], [0, 0, 0]]
    with pytest.raises(ZeroDivisionError), Guarded(bench, park=PARK) as guard:
        guard.measure(_queries([1.0, 0.0, 0.0]))
        raise ZeroDivisionError
    assert bench.settings[-1] == [0, 0, 0]
    Guarded(bench).close()  # nothing to park at


def test_parking_that_fails_names_both():
    bench = Bench()
    guard = Guarded(bench, park=PARK)
    guard.measure(_queries([1.0, 0.0, 0.0]))
    bench.broken, bench.jammed = RuntimeError("no light"), OSError("no link")
    with pytest.raises(DeviceError, match=r"could not be parked: .*no link.*after .*no light"):
        guard.measure(_queries([1.0, 0.0, 0.0]))
    with pytest.raises(DeviceError, match="no link"):
        guard.close()
    bench.jammed = None
    guard.close()
    assert bench.settings[-1] == [0, 0, 0]


def test_a_veto_without_latch_is_lifted_by_the_interlock_itself():
    bench, verdict = Bench(), ["the lid is open"]
    guard = Guarded(bench, interlock=lambda theta, x: verdict[0] or None, latch=False, park=PARK)
    for _ in range(2):
        with pytest.raises(InterlockError, match="lid is open; stopped until it agrees"):
            guard.measure(_queries([1.0, 0.0, 0.0]))
    assert guard.closed == "the lid is open"
    assert bench.settings == [[0, 0, 0]]
    with pytest.raises(InterlockError):
        guard.program(torch.ones(3))
    verdict[0] = ""
    guard.measure(_queries([1.0, 0.0, 0.0]))
    assert guard.closed is None
    assert bench.settings == [[0, 0, 0], [1, 0, 0]]


@pytest.mark.parametrize("park", [PARK, None])
def test_parking_ends_with_the_idle_row(park):
    bench, ledger = Bench(), Ledger()
    sent: list[list[float]] = []
    read = bench.read
    bench.read = lambda x: (sent.extend(x.tolist()), read(x))[1]  # pyright: ignore[reportAttributeAccessIssue]
    guard = Guarded(bench, park=park, idle=torch.tensor([0.5, 0.0]))
    guard.park()
    assert sent == ([[0.5, 0.0]] if park is not None else [])  # what was never used keeps nothing
    metered(guard, ledger)(_queries([1.0, 0.0, 0.0]))
    guard.park()
    guard.park()
    assert sent[-1] == [0.5, 0.0]
    assert sent.count([0.5, 0.0]) == (2 if park is not None else 1)
    assert bench.settings[-1] == ([0, 0, 0] if park is not None else [1, 0, 0])
    metered(guard, ledger)(_queries([1.0, 0.0, 0.0]))
    assert ledger.total_rows == bench.rows
    assert ledger.total_programmings == len(bench.written)
    assert ledger.rows[Purpose.CALIBRATE] == sent.count([0.5, 0.0])


def test_closing_parks_and_closes_what_is_wrapped():
    closed: list[list[float]] = []

    class Closable(Bench):
        def close(self):
            closed.append(self.settings[-1])

    with Guarded(Noisy(Closable(), read=0.0), park=PARK) as guard:
        guard.measure(_queries([1.0, 0.0, 0.0]))
    assert closed == [[0, 0, 0]]
    bench = Closable()
    guard = Guarded(bench, park=PARK)
    guard.measure(_queries([1.0, 0.0, 0.0]))
    bench.jammed = OSError("no link")
    with pytest.raises(DeviceError, match="could not be parked"):
        guard.close()
    assert closed[1:] == [[1, 0, 0]]  # all the same
    bench.jammed = None


def test_where_a_device_stands_is_not_read_from_memory_that_is_used_again():
    bench, theta = Bench(), torch.tensor([0.3, 0.0, 0.0])
    guard = Guarded(bench, slew=0.4)
    guard.measure([Query(draw(1, 2), theta, Purpose.FORWARD)])
    bench.broken = RuntimeError("no light")
    with pytest.raises(RuntimeError):
        guard.measure([Query(draw(1, 2), theta, Purpose.FORWARD)])
    bench.broken = None
    theta += 0.6
    guard.measure([Query(draw(1, 2), theta, Purpose.FORWARD)])
    assert max(float((b - a).abs().max()) for a, b in pairwise(bench.written)) <= 0.4 + 1e-6


def test_a_dropped_guard_parks_unless_it_was_never_used():
    bench = Bench()
    guard = Guarded(bench, park=PARK)
    del guard
    gc.collect()
    assert not bench.written
    guard = Guarded(bench, park=PARK)
    guard.measure(_queries([1.0, 0.0, 0.0]))
    del guard
    gc.collect()
    assert bench.settings == [[1, 0, 0], [0, 0, 0]]


SCRIPT = """
import sys, torch, blackprop as bp
from blackprop.lab.wrappers._guarded import Guarded
from blackprop.core._query import Purpose, Query

class Bench(bp.Device):
    def program(self, theta, /):
        print(*theta.tolist(), flush=True)
    def read(self, x, /):
        return x
guard = Guarded(Bench(2, 2, 2), park=torch.zeros(2), slew=1.0)
guard.measure([Query(torch.ones(1, 2), torch.tensor([1.5, 0.5]), Purpose.FORWARD)])
{end}
"""


@pytest.mark.parametrize("end", ["", "raise RuntimeError('crash')", "sys.exit(3)"])
def test_an_interpreter_that_ends_parks_the_device(end):
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(end=end)], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.stdout.splitlines()[-3:] == ["1.5 0.5", "0.75 0.25", "0.0 0.0"]
    assert (done.returncode == 0) == (end == "")


@pytest.mark.parametrize(
    "options", [{}, {"slew": 0.4}, {"interlock": lambda theta, x: None}], ids=["bare", "slew", "interlock"]
)
@pytest.mark.parametrize("inner", [LightModulator(5, 4), Matrix(5, 4)], ids=str)
def test_the_contract_holds(inner, options):
    check_device(Guarded(inner, low=-8.0, high=8.0, park=torch.zeros(20), **options))


def test_a_guard_changes_no_reading_and_hands_the_round_on():
    plain = LightModulator(6, 4)
    theta, x = plain.theta.draw(torch.Generator().manual_seed(0)), draw(5, 6)
    queries = [Query(x, theta + i, Purpose.FORWARD) for i in range(3)]
    for a, b in zip(Guarded(plain, low=-9.0).measure(queries), LightModulator(6, 4).measure(queries), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"low": 2.0, "high": 1.0}, "low"),
        ({"high": -4.0}, "within the device's own"),
        ({"low": torch.zeros(2)}, r"\(3,\)"),
        ({"slew": 0.0}, "slew"),
        ({"rows_per_second": float("inf")}, "rows_per_second"),
        ({"park": torch.tensor([9.0, 0, 0])}, "park.*outside"),
        ({"park": torch.zeros(2)}, "park"),
        ({"idle": torch.zeros(3)}, r"idle.*\(2,\)"),
        ({"idle": torch.tensor([0.0, float("nan")])}, "idle.*finite"),
    ],
)
def test_wrong_arguments_are_refused(options, words):
    with pytest.raises(ArgumentError, match=words):
        Guarded(Bench(low=-3.0, high=3.0), **options)
