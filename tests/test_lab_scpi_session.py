"""Instruments that answer late, twice, with echoes, in pieces, not at all, and die: no reading is wrong."""

from __future__ import annotations

import struct
import sys
import time
from pathlib import Path

import pytest
import torch

import blackprop as bp
from blackprop.core import Ledger, Purpose, Query, metered
from blackprop.errors import (
    ArgumentError,
    BusyError,
    DeviceError,
    InDoubtError,
    ReadingError,
    UnreachableError,
)
from blackprop.lab import Channels, Readings, Retrying, VisaDevice

pyvisa = pytest.importorskip("pyvisa")
BENCHMARKS = Path(__file__).parents[1] / "benchmarks" / "lab"
TIMEOUT = 0.15  # s
WRITE = "VOLT {channel},{value:.9f}"
X = torch.tensor([[2.0, 4.0], [1.0, 0.0], [-3.0, 2.0], [0.5, 0.25]])
THETA = torch.tensor([0.5, -0.25])
Y = X @ THETA[:, None]


@pytest.fixture
def bench(monkeypatch):
    """The two files as the command line imports them."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import instrument  # pyright: ignore[reportMissingImports]
    import scpi_server  # pyright: ignore[reportMissingImports]

    instrument.server = scpi_server
    yield instrument
    for name in ("instrument", "scpi_server"):
        sys.modules.pop(name)


@pytest.fixture
def scpi(bench):
    """Makes instruments, and closes them and their links."""
    made = []

    def make(**kwargs):
        made.append(bench.server.Scpi(bench.server.Faults(timeout=TIMEOUT), **kwargs))
        return made[-1]

    yield make
    for instrument in made:
        instrument.close()


@pytest.fixture
def connect(bench):
    """Makes devices; an instrument serves one connection at a time, so the link of the one before is closed."""
    made = []

    def make(instrument, link: object = "address", **kwargs) -> VisaDevice:
        for before in made:
            before.resource.close()
        opens = {"address": instrument.address, "function": lambda: bench.server.RawSocket(instrument.port, TIMEOUT)}
        opens["object"] = opens["function"]() if link == "object" else None
        kwargs.setdefault("outputs", Readings("READ?", ("y",)))
        device = VisaDevice(
            opens[link] if isinstance(link, str) else link,
            theta=Channels(WRITE, ("A", "B"), -1, 1),
            inputs=Channels(WRITE, ("C", "D"), -4, 4),
            timeout=TIMEOUT,
            manager=pyvisa.ResourceManager(bench.server.Sockets()),
            **kwargs,
        )
        made.append(device)
        return device

    yield make
    for device in made:
        device.resource.close()


def ask(device: bp.Device, x: torch.Tensor = X, ledger: Ledger | None = None) -> torch.Tensor:
    return metered(device, ledger if ledger is not None else Ledger())([Query(x, THETA, Purpose.FORWARD)])[0]


def persistently(device: bp.Device, times: int = 8) -> torch.Tensor:
    """Ask until it answers; each call within twice the timeout."""
    for _ in range(times):
        began = time.monotonic()
        try:
            return ask(device)
        except (InDoubtError, ReadingError, UnreachableError):
            assert time.monotonic() - began < 2 * TIMEOUT + 0.1
            time.sleep(TIMEOUT / 4)
    raise AssertionError(f"no answer of {times}")


class QueryOnly:
    """A user's link with `write` and `query` alone."""

    def __init__(self, link) -> None:
        self._link = link
        self.write, self.query, self.close = link.write, link.query, link.close


@pytest.mark.parametrize("link", ["address", "function", "object"])
@pytest.mark.parametrize("fault", ["late", "twice", "echo", "pieces", "silent", "dies"])
def test_no_reading_after_a_fault_belongs_to_another_question(bench, scpi, connect, link, fault):
    instrument = scpi(greets=True)
    device = connect(instrument, link)
    torch.testing.assert_close(ask(device), Y)
    for _ in range(3):
        instrument.script = ["", fault]
        if fault == "dies" and link == "object":
            with pytest.raises(InDoubtError):
                ask(device)
            with pytest.raises(UnreachableError, match=r"assign a link that you have opened anew .* `resource`"):
                ask(device)
            device.resource.close()
            device.resource = bench.server.RawSocket(instrument.port, TIMEOUT)  # as it says
        torch.testing.assert_close(persistently(device), Y)
        torch.testing.assert_close(persistently(device), Y)
    assert instrument.injected[fault] == 3


def test_a_link_with_query_alone_is_believed_only_while_in_step(bench, scpi, connect):
    instrument = scpi()
    link = QueryOnly(bench.server.RawSocket(instrument.port, TIMEOUT))
    device = connect(instrument, link)
    torch.testing.assert_close(ask(device), Y)
    instrument.script = ["late"]
    with pytest.raises(InDoubtError, match="timed out"):
        ask(device)
    time.sleep(2 * TIMEOUT)  # the late answer is there
    for _ in range(3):
        with pytest.raises(UnreachableError, match="assign a link that you have opened anew"):
            ask(device)
    link.close()
    device.resource = QueryOnly(bench.server.RawSocket(instrument.port, TIMEOUT))
    torch.testing.assert_close(ask(device), Y)

    device = connect(instrument, lambda: QueryOnly(bench.server.RawSocket(instrument.port, TIMEOUT)))
    for fault in ("late", "twice", "dies", "silent"):
        link = device.resource
        instrument.script = ["", fault]
        torch.testing.assert_close(persistently(device), Y)
        torch.testing.assert_close(persistently(device), Y)
        assert device.resource is not link


@pytest.mark.parametrize("wrap", [lambda link: link, QueryOnly])
@pytest.mark.parametrize("line", ["0", "OK", ""])
def test_acknowledgements_are_read_where_they_are_declared_and_never_taken_for_readings(
    bench, scpi, connect, line, wrap
):
    instrument = scpi(acknowledges=line)

    def link():
        return wrap(bench.server.RawSocket(instrument.port, TIMEOUT))

    device = connect(instrument, link, acknowledgement=line)
    for _ in range(3):
        torch.testing.assert_close(ask(device), Y)
    undeclared = connect(instrument, link)
    if line and (line == "0" or wrap is QueryOnly):
        with pytest.raises(ReadingError, match="acknowledgement="):
            ask(undeclared)
    elif line == "" and wrap is not QueryOnly:  # an empty line is never an answer
        torch.testing.assert_close(ask(undeclared), Y)
    with pytest.raises(DeviceError, match="expected the acknowledgement 'READY'"):
        ask(connect(instrument, link, acknowledgement="READY"))


def test_an_address_whose_peer_closed_is_opened_again_and_nothing_hangs(scpi, connect):
    instrument = scpi()
    device = connect(instrument)
    ask(device)
    instrument.script = ["dies"]
    assert instrument.connections == 1
    torch.testing.assert_close(persistently(device), Y)
    assert instrument.connections >= 2
    instrument.close()
    device.resource.close()
    for _ in range(3):
        began = time.monotonic()
        with pytest.raises(DeviceError, match=r"127\.0\.0\.1"):
            ask(device)
        assert time.monotonic() - began < 2 * TIMEOUT + 0.1


def test_a_closed_device_stays_closed(scpi, connect):
    instrument = scpi()
    device = connect(instrument)
    ask(device)
    device.close()
    for _ in range(2):
        with pytest.raises(DeviceError, match="is closed"):
            ask(device)
    assert instrument.connections == 1


def test_another_instrument_at_the_same_address_is_not_believed(bench, scpi, connect, monkeypatch):
    instrument = scpi()
    device = connect(instrument)
    ask(device)
    monkeypatch.setattr(bench.server, "IDENTITY", "ACME,MODEL 2,0,1.0")
    with pytest.raises(ReadingError, match="ACME,MODEL 2"):
        ask(device)
    with pytest.raises(UnreachableError, match=r"not answered by 'ACME,MODEL 1,0,1.0' .*, but by 'ACME,MODEL 2,0,1.0'"):
        ask(device)


def test_a_marker_that_cannot_mark_is_refused_with_what_to_do(scpi, connect):
    instrument = scpi()
    with pytest.raises(DeviceError, match=r"answers the marker question 'READ\?' by '.*', as it would a reading"):
        ask(connect(instrument, marker="READ?"))
    instrument.script = ["silent"] * 2
    device = connect(instrument, marker="NAME?")
    with pytest.raises(UnreachableError, match=r"'NAME\?' was not answered within 0.15 s .*name another by `marker=`"):
        ask(device)
    with pytest.raises(ArgumentError, match="marker"):
        connect(instrument, marker=" ")


def test_without_a_marker_a_socket_is_emptied_before_each_question_and_opened_again_after_a_failure(scpi, connect):
    instrument = scpi(acknowledges="0")
    device = connect(instrument, marker=None, settle_row=0.02)  # so that what was sent has come
    instrument.script = ["", "twice"]
    torch.testing.assert_close(persistently(device), Y)
    instrument.script = ["late"]
    torch.testing.assert_close(persistently(device), Y)
    torch.testing.assert_close(persistently(device), Y)
    assert instrument.connections == 2


def test_a_link_without_end_of_time_is_given_one(bench, scpi):
    instrument = scpi()
    opened = pyvisa.ResourceManager(bench.server.Sockets()).open_resource(instrument.address)
    opened.read_termination = opened.write_termination = "\n"
    channels = Channels(WRITE, ("A", "B"))
    for milliseconds, seconds in ((None, 10.0), (300, 0.3)):
        opened.timeout = milliseconds
        VisaDevice(opened, theta=channels, inputs=channels, outputs=Readings("READ?", ("y",))).program(THETA)
        assert opened.timeout == 1000 * seconds
    opened.close()


@pytest.mark.parametrize("link", ["address", "function"])
def test_binary_blocks_are_read_and_those_cut_short_are_not_believed(scpi, connect, link):
    instrument = scpi(binary=True)
    device = connect(instrument, link, outputs=Readings("READ?", ("y",), dtype="<f8"))
    newlines = struct.unpack("<d", b"\n\n\n\n\n\n\x00@")[0]  # a terminator in the block ends nothing
    instrument._reading = lambda: b"#18" + struct.pack("<d", newlines)
    assert ask(device, X.double()).tolist() == [[newlines]] * 4
    del instrument._reading
    torch.testing.assert_close(ask(device), Y)
    for fault in ("late", "twice", "echo", "pieces", "silent", "dies"):
        instrument.script = ["", fault]
        torch.testing.assert_close(persistently(device), Y)
    instrument._reading = lambda: b"#14\0\0\0\0"
    with pytest.raises(ReadingError, match="expected 1 of <f8"):
        ask(device)
    instrument._reading = lambda: b"1.5"
    with pytest.raises(ReadingError, match="not a binary block"):
        ask(device)


class Scope:
    """A scope on a framed link, as USB-TMC: each read is a message; a block may come in several."""

    def __init__(self, *messages: bytes) -> None:
        self.messages, self.left, self.cleared = messages, list(messages), 0

    def write(self, message: str) -> None:
        if message == "CURV?":
            self.left = list(self.messages)

    def query(self, message: str) -> str:
        raise AssertionError(message)

    def read_raw(self) -> bytes:
        return self.left.pop(0)

    def clear(self) -> None:
        self.cleared += 1


@pytest.mark.parametrize("dtype", [">i2", "<f4"])
def test_a_curve_of_several_points_is_several_outputs(dtype):
    values = torch.tensor([1.0, -2.0, 300.0]).numpy().astype(dtype).tobytes()
    message = f"#3{len(values):03d}".encode() + values + b"\n"
    channels = Channels(WRITE, ("A", "B"))

    def scope(*messages: bytes) -> VisaDevice:
        outputs = Readings("CURV?", (1, 2, 3), dtype=dtype)
        return VisaDevice(Scope(*messages), theta=channels, inputs=channels, outputs=outputs, marker=None)

    for cut in (len(message), 7, 1):
        assert scope(message[:cut], message[cut:]).read(torch.zeros(1, 2)).tolist() == [[1.0, -2.0, 300.0]]
    broken = scope(b"#0" + values)
    with pytest.raises(ReadingError, match="not a binary block of definite length"):
        broken.read(torch.zeros(1, 2))
    assert broken.resource.cleared == 1


def test_rows_that_were_driven_are_booked_and_asked_again_only_where_that_is_allowed(scpi, connect):
    instrument = scpi()
    device, ledger = connect(instrument), Ledger()
    instrument.script = ["", "", "", "silent"]
    with pytest.raises(InDoubtError, match="reading failed"):
        ask(Retrying(device), ledger=ledger)
    assert ledger.total_rows == instrument.rows == 4
    instrument.script = ["", "", "", "silent"]
    ask(Retrying(device, also=(InDoubtError,)), ledger=ledger)
    assert ledger.total_rows == instrument.rows == 12
    assert ledger.total_programmings == instrument.programmings == 3


def test_a_round_that_failed_half_way_is_in_doubt_whatever_the_driver_raises():
    class Bench(bp.Device):
        def __init__(self, fault: Exception) -> None:
            super().__init__(2, 1, 2)
            self.fault, self.rows, self.fails_at = fault, 0, 1

        def program(self, theta):
            del theta

        def read(self, x):
            self.fails_at -= 1
            if self.fails_at == -1:
                raise self.fault
            self.rows += len(x)
            return x[:, :1]

    round_ = [Query(X, THETA, Purpose.FORWARD), Query(X[:1], -THETA, Purpose.PARAMETER)]
    for fault in (UnreachableError("gone"), BusyError("held")):
        bench, ledger = Bench(fault), Ledger()
        with pytest.raises(InDoubtError, match=r"a part of the round was measured: (gone|held)"):
            metered(bench, ledger)(round_)
        bench.fails_at = 1
        metered(Retrying(bench, also=(InDoubtError,)), ledger)(round_)
        assert (ledger.total_rows, bench.rows) == (15, 13)  # each attempt whole
        bench.fails_at = 0
        with pytest.raises(type(fault)):  # nothing of it was measured
            metered(bench, Ledger())(round_[1:])


@pytest.mark.parametrize("link", ["address", "object"])
def test_a_few_hundred_readings_of_a_bad_instrument_are_right(bench, link):
    """The short form of benchmarks/lab/instrument.py."""
    rates = dict.fromkeys(bench.RATES, 0.02)
    faults = bench.server.Faults(**rates, timeout=0.1)
    outcome = bench.measured(link, 160, faults, seed=3)
    assert outcome.wrong == 0
    assert outcome.longest <= 2 * 0.1 + 0.1
    assert outcome.booked[0] >= outcome.counted[0] >= 160
    assert outcome.booked[1] >= outcome.counted[1] >= 160 // (bench.ROWS * bench.AT_A_SETTING)
    assert sum(outcome.injected.values()) > 10
    assert sum(outcome.failures.values()) > 3
