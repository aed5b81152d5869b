"""Instruments that speak SCPI: what is written and asked, and what happens when they do not answer as they should."""

from __future__ import annotations

import math
import re
import shutil
import sys
from pathlib import Path

import pytest
import torch

import blackprop as bp
from blackprop._extras import install
from blackprop.core import Purpose, Query
from blackprop.errors import (
    ArgumentError,
    DeviceError,
    InDoubtError,
    LimitError,
    ReadingError,
    ShapeError,
    UnreachableError,
)
from blackprop.lab import Channels, Readings, VisaDevice
from blackprop.lab.instruments._scpi import no_error

pyvisa = pytest.importorskip("pyvisa")
pytest.importorskip("pyvisa_sim")

BENCH = Path(__file__).parent / "data" / "bench.yaml"
WRITE = "SOUR{channel}:VOLT {value:.6f}"
ECHO = Readings("SOUR{channel}:VOLT?", (1, 2, 3, 4))  # reads back θ, then x


@pytest.fixture
def manager(tmp_path: Path):
    bench = shutil.copy(BENCH, tmp_path)  # PyVISA keeps one simulation a file, with what was set and its errors
    manager = pyvisa.ResourceManager(f"{bench}@sim")
    yield manager
    manager.close()


def source(manager, outputs: Readings = ECHO, high: float = 2.0, **kwargs) -> VisaDevice:
    return VisaDevice(
        "GPIB0::8::INSTR",
        manager=manager,
        theta=Channels(WRITE, (1, 2), 0, 5),
        inputs=Channels(WRITE, (3, 4), -2, high),
        outputs=outputs,
        timeout=0.1,
        **kwargs,
    )


class Scale:
    """y = θ1 x1 + θ2 x2, as an instrument that answers after a trigger; says what it was told."""

    resource_name = "FAKE::INSTR"
    timeout = 0.0

    def __init__(self) -> None:
        self.volts: dict[str, float] = {}
        self.told: list[str] = []
        self.held = 0.0
        self.fails: Exception | None = None
        self.cleared = 0

    def write(self, message: str) -> None:
        self.told.append(message)
        if message == "*TRG":
            self.held = self.volts["A"] * self.volts["C"] + self.volts["B"] * self.volts["D"]
            return
        name, volts = message.removeprefix("VOLT ").split(",")
        self.volts[name] = float(volts)

    def query(self, message: str) -> str:
        self.told.append(message)
        if self.fails is not None:
            raise self.fails
        return f"{self.held:+.9E}\n"

    def clear(self) -> None:
        self.cleared += 1


def scale(instrument: Scale, **kwargs) -> VisaDevice:
    write = "VOLT {channel},{value:.9f}"
    theta, inputs = Channels(write, ("A", "B"), -1, 1), Channels(write, ("C", "D"), -4, 4)
    return VisaDevice(
        instrument,
        theta=theta,
        inputs=inputs,
        outputs=Readings("READ?", ("all",)),
        trigger="*TRG",
        marker=None,  # an object that keeps questions and answers apart itself
        **kwargs,
    )


def binary(instrument: Scale) -> VisaDevice:
    channels = Channels(WRITE, (1,))
    return VisaDevice(instrument, theta=channels, inputs=channels, outputs=Readings("CURV?", (1,), dtype=">f4"))


def test_a_simulated_instrument_passes_the_contract(manager):
    device = source(manager, check="SYST:ERR?", trigger="INIT;*OPC?")
    assert (device.in_shape, device.out_shape, device.theta.size) == ((2,), (4,), 2)
    bp.testing.check_device(device)
    device.program(torch.tensor([1.25, 4.5]))
    y = device.read(torch.tensor([[0.5, -0.25], [2.0, -2.0]]))
    torch.testing.assert_close(y, torch.tensor([[1.25, 4.5, 0.5, -0.25], [1.25, 4.5, 2.0, -2.0]]))


def test_a_layer_around_it_trains(manager):
    layer = bp.PhysicalLayer(source(manager), *bp.presets.paper(rank=2, samples=4, step=0.1, linear=False))
    wanted = torch.tensor([3.0, 1.0])
    optimizer = torch.optim.Adam([layer.theta], lr=0.3)
    for _ in range(80):
        optimizer.zero_grad()
        loss = (layer(torch.zeros(1, 2))[:, :2] - wanted).square().sum()
        loss.backward()
        optimizer.step()
    torch.testing.assert_close(layer.theta.detach(), wanted, atol=0.2, rtol=0)
    assert bp.ledger(layer).total_rows > 60


def test_commands_questions_and_waits_come_in_order():
    instrument, waits = Scale(), []
    device = scale(instrument, settle=0.5, settle_row=0.25, sleep=lambda s: waits.append((s, len(instrument.told))))
    device.program(torch.tensor([1.0, -0.5]))
    y = device.read(torch.tensor([[2.0, 4.0], [1.0, 0.0]], dtype=torch.float64))
    torch.testing.assert_close(y, torch.tensor([[0.0], [1.0]], dtype=torch.float64))
    assert instrument.told[:2] == ["VOLT A,1.000000000", "VOLT B,-0.500000000"]
    assert instrument.told[2:6] == ["VOLT C,2.000000000", "VOLT D,4.000000000", "*TRG", "READ?"]
    assert waits == [(0.5, 2), (0.25, 4), (0.25, 8)]
    assert device.cost == bp.Cost(programming=0.5, row=0.25)


def test_one_question_may_answer_for_all_channels(manager):
    device = source(manager, Readings("FETC? (@{channels})", (1, 2)))
    assert device.read(torch.zeros(3, 2)).tolist() == [[1.5, -2.5]] * 3
    overload = source(manager, Readings("OVER? (@{channels})", (1, 2, 3))).read(torch.zeros(1, 2))[0].tolist()
    assert math.isnan(overload[0])
    assert overload[1:] == [math.inf, -math.inf]


@pytest.mark.parametrize(
    ("rows", "settings"),
    [
        ([[0.0, 0.0], [0.0, 4.5]], [[0.5, 0.5]]),
        ([[0.0, math.nan]], [[0.5, 0.5]]),
        ([[0.0, 0.0]], [[0.5, 0.5], [0.5, 1.01]]),
        ([[0.0, 0.0]], [[0.5, math.inf]]),
    ],
)
def test_nothing_of_a_round_beyond_the_limits_is_written(rows, settings):
    instrument = Scale()
    queries = [Query(torch.tensor(rows), torch.tensor(theta), Purpose.FORWARD) for theta in settings]
    with pytest.raises(LimitError):
        scale(instrument).measure(queries)
    assert not instrument.told


def test_the_two_verbs_hold_the_limits_too():
    instrument = Scale()
    with pytest.raises(LimitError, match=r"theta\[1\] = 1.01"):
        scale(instrument).program(torch.tensor([0.0, 1.01]))
    with pytest.raises(LimitError, match=r"entry 1 of row 1 is 4.5"):
        scale(instrument).read(torch.tensor([[0.0, 0.0], [0.0, 4.5]]))
    with pytest.raises(ShapeError):
        scale(instrument).read(torch.zeros(2, 3))
    assert not instrument.told


def test_a_limit_that_float32_rounds_up_is_written_as_it_is():
    instrument = Scale()
    channels = Channels("VOLT {channel},{value:.12f}", ("A",), 0.0, 0.1)
    device = VisaDevice(instrument, theta=channels, inputs=channels, outputs=Readings("READ?", (1,)), marker=None)
    assert float(torch.tensor(0.1)) > 0.1
    device.program(torch.tensor([0.1]))
    assert instrument.volts["A"] == 0.1


def test_garbage_is_named_with_its_question(manager):
    with pytest.raises(ReadingError, match=r"GPIB0::8.*'JUNK\?' by '12.3 V pp', expected a number"):
        source(manager, Readings("JUNK?", (1,))).read(torch.zeros(1, 2))
    with pytest.raises(ReadingError, match=r"'SHORT\? \(@1,2\)' by '0.5', expected 2 numbers"):
        source(manager, Readings("SHORT? (@{channels})", (1, 2))).read(torch.zeros(1, 2))
    instrument = Scale()
    instrument.fails = UnicodeDecodeError("ascii", b"\xff\xfe", 0, 1, "ordinal not in range")
    device = scale(instrument)
    device.program(torch.zeros(2))
    with pytest.raises(ReadingError, match=r"'READ\?' by b'\\xff\\xfe', which is not text"):
        device.read(torch.zeros(1, 2))


@pytest.mark.parametrize("answer", ["1_0", "1_000.5", "٣", "1e3x", "", "1,2"])
def test_what_python_alone_takes_for_a_number_is_refused(answer):
    instrument = Scale()
    instrument.query = lambda message: answer
    device = scale(instrument)
    device.program(torch.zeros(2))
    with pytest.raises(ReadingError, match="expected a number"):
        device.read(torch.zeros(1, 2))
    instrument.query = lambda message: " +1.5E+1\r\n"
    assert device.read(torch.zeros(1, 2)).tolist() == [[15.0]]


@pytest.mark.parametrize(
    ("answer", "empty"), [("0", True), ("+0,ok", True), ("-0", True), ("00", True), ("0_0", False), ("+", False)]
)
def test_an_error_queue_is_empty_at_zero_alone(answer, empty):
    assert no_error(answer) is empty


@pytest.mark.parametrize("wrap", [lambda device: device, bp.lab.Guarded, bp.lab.Checked])
def test_rows_in_any_layout_are_written_as_they_are(wrap):
    rows = torch.tensor([[2.0, 4.0], [1.0, -3.0]], dtype=torch.float64)
    negated = torch.complex(torch.zeros_like(rows), -rows).conj().imag  # its negative bit is set
    assert negated.is_neg()
    theta = torch.ones(2, dtype=torch.float64)
    for x in (rows, rows.t().contiguous().t(), rows.repeat_interleave(2, 1)[:, ::2], negated, rows.requires_grad_()):
        instrument = Scale()
        (y,) = wrap(scale(instrument)).measure([Query(x, theta, Purpose.FORWARD)])
        assert y.tolist() == [[6.0], [-2.0]]
        assert [told for told in instrument.told if told.startswith("VOLT C")] == [
            "VOLT C,2.000000000",
            "VOLT C,1.000000000",
        ]


def test_an_instrument_that_does_not_answer_leaves_in_doubt_what_was_driven(manager):
    with pytest.raises(InDoubtError, match=r"GPIB0::8::INSTR.*VI_ERROR_TMO"):
        source(manager, Readings("SILENCE?", (1,))).read(torch.zeros(1, 2))


@pytest.mark.parametrize(("fault", "kind"), [(TimeoutError("late"), InDoubtError), (KeyError("x"), DeviceError)])
def test_after_a_fault_it_is_cleared_and_programmed_again(fault: Exception, kind: type[Exception]):
    instrument = Scale()
    device, query = scale(instrument), Query(torch.ones(1, 2), torch.ones(2), Purpose.FORWARD)
    device.measure([query])
    instrument.fails = fault
    with pytest.raises(DeviceError, match=r"FAKE::INSTR.*reading failed") as caught:
        device.measure([query])
    assert type(caught.value) is kind
    assert instrument.cleared == 1
    assert device.programmed is None
    instrument.fails = None
    instrument.told.clear()
    assert device.measure([query])[0].tolist() == [[2.0]]
    assert instrument.told[0] == "VOLT A,1.000000000"


def test_what_the_error_queue_holds_is_raised(manager):
    device = source(manager, high=20.0, check="SYST:ERR?")  # the instrument itself takes 10 V
    device.program(torch.zeros(2))
    with pytest.raises(DeviceError, match=r'reports -222,"Data out of range"; -222,"Data out of range"$'):
        device.read(torch.full((1, 2), 12.0))
    device.program(torch.zeros(2))  # the queue is empty again
    with pytest.raises(DeviceError, match=r"reports 12\.3 V pp"):  # what cannot be read is no all-clear
        source(manager, check="JUNK?").program(torch.zeros(2))


def test_an_address_is_opened_and_closed(manager):
    device = source(manager)
    device.close()
    with pytest.raises(DeviceError):
        device.program(torch.zeros(2))
    opened = manager.open_resource("GPIB0::8::INSTR", read_termination="\n", write_termination="\n")
    theta, inputs = Channels(WRITE, (1, 2), 0, 5), Channels(WRITE, (3, 4), -2, 2)
    device = VisaDevice(opened, theta=theta, inputs=inputs, outputs=ECHO, timeout=1.5)
    device.close()  # who opens, closes
    device.program(torch.ones(2))
    assert opened.timeout == 1500
    assert "GPIB0::8::INSTR" in repr(device)


def test_an_address_that_cannot_be_opened_is_named():
    def fails() -> None:
        raise ValueError("no VISA here")

    channels = Channels(WRITE, (1,))
    with pytest.raises(UnreachableError, match="cannot open TCPIP::nowhere::INSTR: ValueError: no VISA here"):
        VisaDevice(
            "TCPIP::nowhere::INSTR", manager=fails, theta=channels, inputs=channels, outputs=Readings("R?", (1,))
        )


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Channels("VOLT {volts}", (1,)), "takes the fields {channel}, {value}"),
        (lambda: Channels("VOLT {channel}", (1,)), "needs the field {value}"),
        (lambda: Channels("VOLT {value}", (1, 2)), "needs the field {channel}"),
        (lambda: Channels("VOLT {value", (1,)), "is not a template"),
        (lambda: Channels("VOLT {value:d}", (1,), 0, 1), "does not write 0 as a number"),
        (lambda: Channels("VOLT {value}", ()), "names at least one"),
        (lambda: Channels("VOLT {value},{channel}", (1, 1)), "none twice"),
        (lambda: Channels("VOLT {value}", (1,), 2, 1), "low must be under high"),
        (lambda: Channels("VOLT {value:.2f}", (1,), 0, 1.239), "would be written as 1.24"),
        (lambda: Readings("MEAS? {value}", (1,)), "takes the fields {channel}, {channels}"),
        (lambda: Readings("READ?", (1,), dtype="text"), "Readings(dtype=...)"),
        (lambda: Readings("READ?", (1,), dtype="c8"), "takes a real type"),
        (lambda: binary(Scale()), "needs a resource with `read_raw`"),
        (lambda: scale(Scale(), timeout=0.0), "takes seconds"),
        (lambda: scale(Scale(), settle=-1.0), "takes seconds"),
        (lambda: scale(object()), "must have `write` and `query`"),
    ],
)
def test_what_cannot_be_built_says_so(build, message):
    with pytest.raises(ArgumentError) as caught:
        build()
    assert message in str(caught.value)


def test_without_the_extra_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyvisa", None)
    with pytest.raises(ArgumentError, match=re.escape(install("lab"))):
        scale(Scale())
