"""Faults are asked around where that is safe, found where it is not, and counted to the row."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import blackprop as bp
from blackprop.core import Count, Ledger, Purpose, Query, Round, metered
from blackprop.devices import Device, LightModulator, Noisy, Quantised
from blackprop.errors import (
    ArgumentError,
    DeviceError,
    InDoubtError,
    LimitError,
    ProtocolError,
    ReadingError,
    UnreachableError,
)
from blackprop.lab import Checked, Faulty, Guarded, ReadingFault, Recorded, Refuse, Remeasure, Retrying
from blackprop.testing import check_device
from support import draw


class RowByRow(Device):
    """An instrument: serves row after row, so a row reads alike in whatever company; counts what reaches it."""

    def __init__(self, inner: bp.Simulator) -> None:
        super().__init__(inner.in_shape, inner.out_shape, inner.theta, linear=inner.linear, coupling=inner.coupling)
        self.inner = inner
        self.writes = self.rows = 0
        self.asked = Count()

    def measure(self, queries: list[Query], /) -> list[Tensor]:
        self.asked.add(Round.of(queries).spending(self.programmed))
        return super().measure(queries)

    def program(self, theta: Tensor, /) -> None:
        self.writes += 1
        self.inner.program(theta)

    def read(self, x: Tensor, /) -> Tensor:
        self.rows += len(x)
        return torch.cat([self.inner.read(row[None]) for row in x]) if len(x) else x.new_zeros(0, *self.out_shape)


class Scripted(RowByRow):
    """Fails as told: `before` the n-th round it serves, or `after` it was measured; or spoils what it read."""

    def __init__(self, inner: bp.Simulator, before=None, after=None, spoil=None) -> None:
        super().__init__(inner)
        self.before, self.after, self.spoil = before or {}, after or {}, spoil or {}
        self.rounds: list[list[Query]] = []

    def measure(self, queries: list[Query], /) -> list[Tensor]:
        number = len(self.rounds)
        self.rounds.append(queries)
        if number in self.before:
            raise self.before[number]
        readings = super().measure(queries)
        if number in self.after:
            raise self.after[number]
        if number in self.spoil:
            self.spoil[number](readings)
        return readings


class Clock:
    def __init__(self) -> None:
        self.now = 0.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


def _theta(device: Device, seed: int = 0) -> Tensor:
    return device.theta.draw(torch.Generator().manual_seed(seed))


def _retrying(device: Device, **options) -> Retrying:
    clock = Clock()
    wrapped = Retrying(device, clock=clock, sleep=clock.sleep, **options)
    wrapped.slept = clock.slept  # pyright: ignore[reportAttributeAccessIssue]
    return wrapped


def _ask(device: Device, ledger: Ledger, *pairs: tuple[Tensor, Tensor], purpose: Purpose = Purpose.FORWARD):
    return metered(device, ledger)([Query(x, theta, purpose) for x, theta in pairs])


def _train(device: Device, steps: int = 12) -> tuple[torch.nn.Module, bp.PhysicalLayer]:
    """A hybrid: digital, physical, digital."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        first, last = torch.nn.Linear(7, 6), torch.nn.Linear(4, 3)
    method = bp.presets.paper(rank=2, samples=3)
    layer = bp.PhysicalLayer(device, *method, generator=torch.Generator().manual_seed(1))
    model = torch.nn.Sequential(first, layer, torch.nn.Tanh(), last)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.03)
    for step in range(steps):
        x, target = draw(16, 7, seed=step), draw(16, 3, seed=1000 + step)
        optimizer.zero_grad()
        (model(x) - target).square().mean().backward()
        optimizer.step()
    return model, layer


def test_training_over_a_faulty_link_ends_with_the_same_bits_and_an_exact_ledger():
    still = RowByRow(LightModulator(6, 4))
    plain, undisturbed = _train(still, steps=40)
    bench = RowByRow(LightModulator(6, 4))
    link = Faulty(bench, seed=3, timeout=0.05, corrupted=0.01, nan_rows=0.01, restart=0.02, duplicated=0.02)
    device = Checked(_retrying(link, attempts=8))
    model, layer = _train(device, steps=40)
    assert min(link.injected[name] for name in ("timeout", "corrupted", "nan_rows", "restart", "duplicated")) >= 1
    assert device.found[ReadingFault.NOT_FINITE] == link.injected["nan_rows"] > 5
    for (name, here), there in zip(model.state_dict().items(), plain.state_dict().values(), strict=True):
        if not name.endswith("_extra_state"):  # which holds the ledger, and that has the repeats
            assert torch.equal(here, there), name
    # What the hardware did is what is booked, and the rows beyond those of the undisturbed run are the repeats.
    assert undisturbed.ledger.total_rows == still.rows
    assert undisturbed.ledger.total_programmings == still.writes
    assert layer.ledger.rows == bench.asked.rows
    assert layer.ledger.programmings == bench.asked.programmings
    assert layer.ledger.total_rows == bench.rows > still.rows
    assert layer.ledger.total_programmings == bench.writes > still.writes
    moved = sum(
        not torch.equal(a, b) for a, b in zip(model.parameters(), _train(bench, 0)[0].parameters(), strict=True)
    )
    assert moved == len(list(model.parameters()))  # it did train


@pytest.mark.parametrize("error", [UnreachableError("x"), ProtocolError("x"), TimeoutError("x"), OSError("x")])
def test_what_is_safe_is_asked_again_and_booked_unless_it_was_not_asked(error):
    x, ledger = draw(5, 6), Ledger()
    asked = not isinstance(error, UnreachableError)
    bench = Scripted(LightModulator(6, 4), **{"after" if asked else "before": {0: error, 1: error}})
    theta = _theta(bench)
    device = _retrying(bench)
    (y,) = _ask(device, ledger, (x, theta))
    assert torch.equal(y, RowByRow(LightModulator(6, 4)).measure([Query(x, theta, Purpose.FORWARD)])[0])
    assert ledger.total_rows == bench.rows == (15 if asked else 5)
    assert ledger.total_programmings == bench.writes == 1
    assert len(device.slept) == 2


@pytest.mark.parametrize("error", [InDoubtError("x"), LimitError("x"), DeviceError("x"), ReadingError("x")])
def test_what_is_not_safe_is_not_asked_again(error):
    bench = Scripted(LightModulator(6, 4), after={0: error})
    with pytest.raises(type(error)) as caught:
        _ask(_retrying(bench), Ledger(), (draw(5, 6), _theta(bench)))
    assert caught.value is error
    assert len(bench.rounds) == 1


def test_a_doubtful_round_is_asked_again_where_that_is_allowed():
    bench, ledger = Scripted(LightModulator(6, 4), after={0: InDoubtError("x")}), Ledger()
    _ask(_retrying(bench, also=(InDoubtError,)), ledger, (draw(5, 6), _theta(bench)))
    assert ledger.total_rows == bench.rows == 10


def test_waiting_doubles_with_jitter_and_ends_at_the_deadline():
    x = draw(5, 6)
    bench = Scripted(LightModulator(6, 4), before=dict.fromkeys(range(99), UnreachableError("gone")))
    device = _retrying(bench, attempts=6, base=1.0, jitter=0.25, seed=4)
    with pytest.raises(UnreachableError, match=r"failed 6 times of 6 .* last: UnreachableError: gone"):
        _ask(device, Ledger(), (x, _theta(bench)))
    assert all(0.75 * 2**k < wait <= 2**k for k, wait in enumerate(device.slept))
    assert len(device.slept) == 5 == len({wait / 2**k for k, wait in enumerate(device.slept)})
    again = _retrying(bench, attempts=6, base=1.0, jitter=0.25, seed=4)
    with pytest.raises(UnreachableError):
        _ask(again, Ledger(), (x, _theta(bench)))
    assert again.slept == device.slept
    soon = _retrying(bench, attempts=99, base=1.0, jitter=0.0, deadline=10.0)
    with pytest.raises(UnreachableError, match="failed 4 times of 99 within 7 s of 10 s"):
        _ask(soon, Ledger(), (x, _theta(bench)))


def test_giving_up_on_what_may_have_been_measured_is_in_doubt_and_books_every_round():
    bench, ledger = Scripted(LightModulator(6, 4), after=dict.fromkeys(range(9), ProtocolError("bad"))), Ledger()
    with pytest.raises(InDoubtError, match="ProtocolError: bad"):
        _ask(_retrying(bench, attempts=3), ledger, (draw(5, 6), _theta(bench)))
    assert ledger.total_rows == bench.rows == 15


def test_only_bad_rows_are_measured_again_all_of_a_round_at_once():
    x, ledger = draw(6, 6), Ledger()

    def spoil(readings):
        readings[0][2, 1] = torch.nan
        readings[2][0] = torch.inf
        readings[2][5, 3] = -torch.inf

    bench = Scripted(LightModulator(6, 4), spoil={0: spoil, 1: lambda readings: readings[1].fill_(torch.nan)})
    thetas = [_theta(bench, seed) for seed in range(3)]
    device = Checked(bench)
    readings = _ask(device, ledger, *((x, theta) for theta in thetas), purpose=Purpose.PARAMETER)
    clean = RowByRow(LightModulator(6, 4)).measure([Query(x, theta, Purpose.FORWARD) for theta in thetas])
    assert all(torch.equal(a, b) for a, b in zip(readings, clean, strict=True))
    first, second, third = bench.rounds
    assert all(query.x is first[0].x for query in first)  # one copy for all
    assert torch.equal(first[0].x, x)
    assert [query.x.tolist() for query in second] == [x[[2]].tolist(), x[[0, 5]].tolist()]
    assert [query.x.tolist() for query in third] == [x[[0, 5]].tolist()]
    assert device.found == {ReadingFault.NOT_FINITE: 5}
    assert ledger.rows == {Purpose.PARAMETER: 18 + 3 + 2}
    assert (ledger.total_rows, ledger.total_programmings) == (bench.rows, bench.writes) == (23, 5)


def test_what_stays_bad_is_refused_by_row_and_output():
    def spoil(readings):
        readings[-1][-1, 2] = torch.nan

    bench = Scripted(LightModulator(6, 4), spoil=dict.fromkeys(range(9), spoil))
    x, theta, ledger = draw(5, 6), _theta(bench), Ledger()
    pairs = ((x, theta), (x, theta + 1))
    with pytest.raises(ReadingError, match=r"row 4 of the forward query 1 of 2, output 2 is not finite, .*attempts: 2"):
        _ask(Checked(bench, not_finite=Remeasure(2)), ledger, *pairs)
    assert ledger.total_rows == bench.rows == 12
    with pytest.raises(ReadingError, match=r"row 4 of the forward query 1 of 2, output 2 is not finite$"):
        _ask(Checked(bench, not_finite=Refuse()), Ledger(), *pairs)


def test_saturated_rows_are_found_at_the_rails():
    def clip(readings):
        readings[0][3, 1] = 2.0

    bench = Scripted(LightModulator(6, 4), spoil={0: clip})
    device = Checked(bench, saturated=Remeasure(), low=-2.0, high=2.0)
    _ask(device, Ledger(), (draw(5, 6), _theta(bench)))
    assert device.found == {ReadingFault.SATURATED: 1}
    assert len(bench.rounds) == 2


def test_an_output_that_sticks_is_found_once_it_has_been_alive():
    inner = LightModulator(6, 4)
    bench = Faulty(RowByRow(inner), stuck=0.1, seed=5)
    device = Checked(bench, stuck=Remeasure(20))
    theta = _theta(bench)
    for seed in range(100):
        x = draw(16, 6, seed=seed)
        (y,) = _ask(device, Ledger(), (x, theta))
        if seed >= 10:  # 150 pairs are enough to know what is usual
            assert torch.equal(y, RowByRow(inner).measure([Query(x, theta, Purpose.FORWARD)])[0])
    assert device.found[ReadingFault.STUCK] >= 16 * 4
    dead = Checked(Scripted(inner, spoil=dict.fromkeys(range(9), lambda ys: ys[0][:, 2].fill_(0.7))), stuck=Refuse())
    with pytest.raises(ReadingError, match=r"output 2 \(and \d+ other rows\) is stuck"):
        _ask(dead, Ledger(), (draw(400, 6), theta))


def test_an_outlier_is_convicted_by_its_repeat():
    def lie(readings):
        readings[0][3, 1] += 1e4
        readings[0][9, 2] *= -1e6

    for policy in (Remeasure(), Refuse()):
        bench = Scripted(LightModulator(6, 4), spoil={0: lie})
        theta, x = _theta(bench), draw(16, 6)
        device = Checked(bench, outlier=policy)
        if policy == Refuse():
            with pytest.raises(ReadingError, match=r"row 3 .* output 1 \(and 1 other rows\) is an outlier"):
                _ask(device, Ledger(), (x, theta))
            continue
        (y,) = _ask(device, Ledger(), (x, theta))
        assert torch.equal(y, RowByRow(LightModulator(6, 4)).measure([Query(x, theta, Purpose.FORWARD)])[0])
        assert device.found == {ReadingFault.OUTLIER: 2}
        assert [len(query.x) for query in bench.rounds[1]] == [2]


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
@pytest.mark.parametrize("kind", ["plain", "noisy", "heavy", "coarse", "sign", "intensity", "sparse"])
def test_healthy_devices_raise_no_alarm_at_any_scale(kind, scale):
    """Rows of very different sizes, constant and repeated rows, few levels, speckle, dark outputs."""
    inner: Device = LightModulator(6, 40)
    if kind == "noisy":
        inner = Noisy(inner, read=0.1)
    if kind in ("coarse", "sign"):
        inner = Quantised(inner, output_bits=3 if kind == "coarse" else 1)
    if kind == "intensity":
        inner = bp.devices.from_callable(
            lambda x, theta: (x @ theta.view(6, 40)).square(), in_shape=6, out_shape=40, theta_size=240
        )
    if kind == "sparse":
        inner = bp.devices.from_callable(
            lambda x, theta: (x @ theta.view(6, 40) - 2 * x.norm(dim=1)[:, None]).relu(),
            in_shape=6,
            out_shape=40,
            theta_size=240,
        )
    device = Checked(inner, stuck=Refuse(), outlier=Refuse())
    generator = torch.Generator().manual_seed(0)
    for seed in range(60):
        theta = torch.randn(240, generator=generator)
        rows = draw(16, 6, seed=seed) * scale
        if kind == "heavy":
            rows = rows / draw(16, 1, seed=99 + seed).abs().clamp(min=1e-3)
        rows[3:5] = rows[2]
        rows[7] = 0
        rows[8] *= 1e-3
        rows[9] *= 1e3
        _ask(device, Ledger(), (rows, theta), (rows, theta + 1e-3), (rows[:1], theta))
    assert not +device.found


def test_faults_come_at_their_rates_and_by_seed():
    def events(seed: int) -> list[str]:
        link = Faulty(
            LightModulator(6, 4), seed=seed, timeout=0.1, dropped=0.1, corrupted=0.1, restart=0.1, late=0.1,
            sleep=lambda _: None,
        )  # fmt: skip
        theta, x, seen = _theta(link), draw(2, 6), []
        for _ in range(600):
            try:
                link.measure([Query(x, theta, Purpose.FORWARD)])
                seen.append("")
            except (DeviceError, TimeoutError) as error:
                seen.append(type(error).__name__)
        assert all(30 <= link.injected[name] <= 95 for name in ("timeout", "dropped", "corrupted", "restart", "late"))
        return seen

    first = events(1)
    assert set(first) == {"", "UnreachableError", "TimeoutError", "InDoubtError", "ProtocolError"}
    assert first == events(1) != events(2)


def test_silent_corruption_turns_one_bit():
    link = Faulty(LightModulator(6, 4), corrupted=1.0, silent=True)
    theta, x = _theta(link), draw(3, 6)
    (y,) = link.measure([Query(x, theta, Purpose.FORWARD)])
    (clean,) = LightModulator(6, 4).measure([Query(x, theta, Purpose.FORWARD)])
    turned = y.view(torch.int32) ^ clean.view(torch.int32)
    assert int((turned != 0).sum()) == 1
    assert int(turned.sum()).bit_count() == 1


def test_the_state_brings_back_the_next_faults_and_checks():
    def make() -> Checked:
        link = Faulty(LightModulator(6, 4), seed=2, timeout=0.2, nan_rows=0.1, stuck=0.2, corrupted=0.1)
        return Checked(_retrying(link, attempts=20), stuck=Remeasure(9))

    def go(device: Checked, seeds: range) -> list[Tensor]:
        return [_ask(device, Ledger(), (draw(12, 6, seed=seed), theta))[0] for seed in seeds]

    one, other = make(), make()
    theta = _theta(one)
    go(one, range(20))
    other.load_state_dict(one.state_dict())
    assert other.found == one.found
    assert all(torch.equal(a, b) for a, b in zip(go(one, range(20, 40)), go(other, range(20, 40)), strict=True))
    assert other.found == one.found
    assert str(other.state_dict()) == str(one.state_dict())


def test_a_quiet_round_is_handed_on_as_it_is():
    bench = Scripted(LightModulator(6, 4))
    theta, x = _theta(bench), draw(5, 6)
    asked = Round.of([Query(x, theta + i, Purpose.FORWARD) for i in range(3)])
    Checked(_retrying(Faulty(bench, timeout=1e-9))).measure(asked)
    assert bench.rounds[0] is asked


@pytest.mark.parametrize("wrap", [Retrying, Checked, Faulty], ids=lambda wrap: wrap.__name__)
@pytest.mark.parametrize("inner", [LightModulator(5, 4), bp.devices.Microring(5, 4)], ids=str)
def test_the_contract_holds(wrap, inner):
    check_device(wrap(inner))
    check_device(wrap(Noisy(inner, read=0.01)))


def test_wrong_arguments_are_refused():
    device = LightModulator(6, 4)
    for make, words in (
        (lambda: Retrying(device, attempts=0), "attempts"),
        (lambda: Retrying(device, jitter=1.5), "jitter"),
        (lambda: Retrying(device, also=("x",)), "exception classes"),
        (lambda: Checked(device, not_finite="raise"), "not_finite"),
        (lambda: Checked(device, saturated=Refuse()), "go together"),
        (lambda: Checked(device, saturated=Refuse(), low=1.0, high=1.0), "low < high"),
        (lambda: Remeasure(0), "attempts"),
        (lambda: Faulty(device, timeout=1.5), "timeout"),
    ):
        with pytest.raises(ArgumentError, match=words):
            make()


@pytest.mark.parametrize(
    "chain",
    [
        lambda link, path: Checked(_retrying(link, attempts=30)),
        lambda link, path: _retrying(Checked(link), attempts=30),
        lambda link, path: Recorded(Checked(Recorded(_retrying(link, attempts=30), path / "a")), path / "b"),
        lambda link, path: Guarded(Checked(_retrying(link, attempts=30)), slew=0.5, low=-2.0, high=2.0),
        lambda link, path: Checked(Guarded(_retrying(link, attempts=30), slew=0.5, park=torch.zeros(24))),
        lambda link, path: Checked(_retrying(Guarded(link, slew=0.5, park=torch.zeros(24)), attempts=200)),
    ],
)
def test_the_ledger_is_what_the_device_did_in_any_order(chain, tmp_path):
    bench, ledger = RowByRow(LightModulator(6, 4)), Ledger()
    link = Faulty(bench, seed=7, timeout=0.1, corrupted=0.1, nan_rows=0.05, restart=0.1, duplicated=0.1)
    device, clean = chain(link, tmp_path), RowByRow(LightModulator(6, 4))
    x = draw(4, 6)
    for step in range(40):
        thetas = [draw(24, seed=step + k // 2).clamp(-2, 2) for k in range(4)]  # some are held already
        queries = [Query(x, theta, list(Purpose)[step % 5]) for theta in thetas]
        for y, expected in zip(metered(device, ledger)(queries), clean.measure(queries), strict=True):
            assert torch.equal(y, expected)
    assert min(link.injected.values()) >= 1
    assert (ledger.total_rows, ledger.total_programmings) == (bench.rows, bench.writes)


def test_a_restarted_device_is_programmed_again():
    bench, ledger = RowByRow(LightModulator(6, 4)), Ledger()
    link = Faulty(bench, restart=0.5, seed=1)
    theta, x = _theta(link), draw(2, 6)
    for _ in range(10):
        _ask(_retrying(link, attempts=30), ledger, (x, theta))
    assert link.injected["restart"] >= 3
    assert 3 <= bench.writes == ledger.total_programmings <= 10
    assert bench.rows == ledger.total_rows == 20
