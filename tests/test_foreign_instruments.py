"""SAX, slmsuite, PyMeasure and ophyd as devices: each fulfils its declaration and tells failures of the other side."""

from __future__ import annotations

import asyncio
import math
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import pytest
import torch

import blackprop as bp
from blackprop.errors import ArgumentError, DeviceError, InDoubtError, ReadingError, UnreachableError
from blackprop.foreign import from_ophyd, from_pymeasure, from_sax, from_slmsuite

PORTS = {"inputs": ["in0", "in1"], "outputs": ["out0", "out1"]}
PHASES = {"parameters": ["top.voltage", "btm.voltage"], "low": 0.0, "high": 2.0, **PORTS}


@pytest.fixture
def mzi():
    sax = pytest.importorskip("sax", reason="SAX is not installed: pip install sax")
    netlist = {
        "instances": {"left": "coupler", "right": "coupler", "top": "shifter", "btm": "shifter"},
        "connections": {
            "left,out0": "btm,in0",
            "left,out1": "top,in0",
            "btm,out0": "right,in0",
            "top,out0": "right,in1",
        },
        "ports": {"in0": "left,in0", "in1": "left,in1", "out0": "right,out0", "out1": "right,out1"},
    }
    models = {"coupler": sax.models.coupler_ideal, "shifter": sax.models.phase_shifter}
    return sax.circuit(netlist=netlist, models=models)[0]


def test_a_circuit_of_sax_reads_powers_and_fields(mzi):
    powers, fields = from_sax(mzi, **PHASES), from_sax(mzi, **PHASES, fields=True)
    theta, x = torch.tensor([0.5, 1.25]), torch.randn(5, 2)
    for device in (powers, fields):
        bp.testing.check_device(device)
        device.program(theta)
    # Two couplers of 50:50 and phases of π a volt: the transfer of an interferometer, but for a common phase.
    half = math.pi * float(theta[1] - theta[0]) / 2
    by_hand = torch.tensor([[math.sin(half), math.cos(half)], [math.cos(half), -math.sin(half)]], dtype=torch.float64)
    expected = (x.double() @ by_hand.mT).square()
    assert torch.allclose(powers.read(x).double(), expected, atol=1e-6)
    real, imaginary = fields.read(x).double().chunk(2, 1)
    assert torch.allclose(real.square() + imaginary.square(), expected, atol=1e-6)


def test_a_circuit_of_sax_trains(mzi):
    torch.manual_seed(0)
    surrogate = bp.surrogates.Streaming(bias=True, exact_start=False)
    layer = bp.PhysicalLayer(from_sax(mzi, **PHASES), bp.estimators.Coordinate(1e-3), surrogate)
    layer.gain.requires_grad_(False)
    optimizer = torch.optim.Adam([layer.theta], lr=0.05)
    x = torch.eye(2)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = (layer(x) - torch.tensor([[0.9, 0.1], [0.1, 0.9]])).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 1e-2 * losses[0]


def test_names_that_a_circuit_does_not_have_are_told(mzi):
    with pytest.raises(ArgumentError, match="out9"):
        from_sax(mzi, **{**PHASES, "outputs": ["out9"]})
    with pytest.raises(ArgumentError, match=r"top\.volts"):
        from_sax(mzi, **{**PHASES, "parameters": ["top.volts"]})
    with pytest.raises(ArgumentError, match="parameters"):
        from_sax(mzi, **{**PHASES, "parameters": "top.voltage"})
    for wrong in ({"wavelength": 1.5}, {"left": {"couplin": 0.4}}):
        with pytest.raises(ArgumentError, match=r"settings=.*(wavelength|couplin)"):
            from_sax(mzi, **PHASES, settings=wrong)
    with pytest.raises(ArgumentError, match="one wavelength"):
        from_sax(mzi, **PHASES, settings={"wl": np.linspace(1.5, 1.6, 5)})
    with pytest.raises(ArgumentError, match="first value"):
        from_sax((mzi, None), **PHASES)  # pyright: ignore[reportArgumentType]


def test_a_circuit_that_fails_is_told_and_used_again():
    """Any function that returns scattering parameters is a circuit, without SAX."""
    broken = False

    def circuit(phase: float = 0.0):
        if broken:
            raise RuntimeError("out of memory")
        return {("in0", "out0"): complex(math.cos(phase), math.sin(phase)) if phase < 4 else math.nan}

    device = from_sax(circuit, parameters=["phase"], inputs=["in0"], outputs=["out0"])
    device.program(torch.ones(1))
    assert torch.allclose(device.read(torch.full((3, 1), 2.0)), torch.full((3, 1), 4.0))
    broken = True
    with pytest.raises(DeviceError, match="out of memory"):
        device.program(torch.zeros(1))
    broken = False
    device.program(torch.zeros(1))
    with pytest.raises(ReadingError, match="finite"):
        device.program(torch.full((1,), 5.0))


SPOTS = [np.s_[i : i + 2, j : j + 2] for i in (29, 34) for j in (29, 34)]  # beside the zeroth order
BLOCKS = {"inputs": (2, 2), "mask": (4, 4), "spots": SPOTS}


@pytest.fixture
def hardware():
    pytest.importorskip("slmsuite", reason="slmsuite is not installed: pip install slmsuite")
    from slmsuite.hardware.cameras.simulated import SimulatedCamera
    from slmsuite.hardware.slms.simulated import SimulatedSLM

    slm = SimulatedSLM((64, 64))
    camera = SimulatedCamera(slm, resolution=(64, 64), bitdepth=16, gain=0.9)
    return slm, camera


@pytest.mark.filterwarnings("ignore")
def test_simulated_hardware_of_slmsuite_is_a_device(hardware):
    device = from_slmsuite(*hardware, **BLOCKS)
    bp.testing.check_device(device, rows=3, parameters=2, subsets=2, repeats=2)
    theta = device.theta.draw(torch.Generator().manual_seed(0))
    device.program(theta)
    y = device.read(torch.tensor([[0.0, 0, 0, 0], [1, 0, 0, 1]]))
    assert (y >= 0).all()
    assert not torch.allclose(y[0], y[1], rtol=0.05)
    slm, camera = hardware
    phase = theta.double().numpy()[np.arange(64)[:, None] // 16 * 4 + np.arange(64) // 16]
    slm.set_phase(np.mod(phase, 2 * np.pi))
    image = camera.get_image()
    assert y[0].tolist() == pytest.approx([image[spot].mean() / 65535 for spot in SPOTS], abs=1e-6)


@pytest.mark.filterwarnings("ignore")
def test_saturated_pixels_and_failures_of_the_camera_are_told(hardware, monkeypatch):
    slm, camera = hardware
    device = from_slmsuite(slm, camera, **BLOCKS)
    device.program(torch.zeros(16))
    monkeypatch.setattr(camera, "get_image", lambda **_: np.full((64, 64), 65535, dtype=np.uint16))
    with pytest.raises(ReadingError, match="exposure"):
        device.read(torch.zeros(1, 4))

    def gone(**options):
        raise TimeoutError("no frame")

    monkeypatch.setattr(camera, "get_image", gone)
    with pytest.raises(InDoubtError, match="no frame"):
        device.read(torch.zeros(1, 4))
    with pytest.raises(ArgumentError, match="mask"):
        from_slmsuite(slm, camera, **{**BLOCKS, "mask": (65, 1)})
    with pytest.raises(ArgumentError, match="spots"):
        from_slmsuite(slm, camera, **{**BLOCKS, "spots": [np.s_[0:4, 62:66]]})


class Bench:
    """A modulator and a camera in one, with slmsuite's interface. The pattern shows after it has settled."""

    shape, settle_time_s, bitresolution, averaging, hdr = (8, 8), 0.25, 256, None, None

    def __init__(self) -> None:
        self.shown, self.exposed = np.zeros(self.shape), [np.zeros(self.shape)]

    def set_phase(self, phase, settle=False):
        if settle:
            self.shown = phase

    def flush(self):
        self.exposed.clear()

    def get_image(self, averaging=None):
        self.exposed.append(np.floor(100 + 10 * self.shown))
        return self.exposed.pop(0) * (1 if averaging is False else self.averaging or 1)


WINDOW = {"inputs": (1, 1), "mask": (2, 2), "spots": [np.s_[:4, 4:]]}


@pytest.mark.parametrize("averaging", [None, 4])
def test_an_image_is_exposed_after_the_pattern_has_settled_and_is_scaled_to_one_frame(averaging):
    bench = Bench()
    bench.averaging = averaging
    corner = np.zeros((8, 8), dtype=bool)
    corner[:4, 4:] = True
    for spots in (WINDOW["spots"], [corner]):
        device = from_slmsuite(bench, bench, **{**WINDOW, "spots": spots})
        device.program(torch.tensor([0.0, 2.0, 0.0, 0.0]))
        assert device.read(torch.tensor([[0.0], [0.5]])).flatten().tolist() == pytest.approx([120 / 255, 135 / 255])
        assert device.cost is not None
        assert device.cost.row == 0.25


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"inputs": 4}, "inputs"),
        ({"mask": (2.0, 2.0)}, "mask"),
        ({"spots": [(3, 4)]}, "np.s_"),
        ({"spots": np.s_[2:4, 2:4]}, "np.s_"),
        ({"spots": [np.zeros((8, 8), dtype=bool)]}, "no pixel"),
        ({"amplitude": math.nan}, "amplitude"),
    ],
    ids=["inputs", "mask", "numbers", "one spot", "empty mask", "amplitude"],
)
def test_blocks_and_spots_that_do_not_fit_are_refused(change, words):
    with pytest.raises(ArgumentError, match=words):
        from_slmsuite(Bench(), Bench(), **{**WINDOW, **change})


def test_other_objects_than_a_modulator_and_a_camera_are_refused():
    bench = Bench()
    with pytest.raises(ArgumentError, match="set_phase"):
        from_slmsuite(object(), bench, **WINDOW)
    with pytest.raises(ArgumentError, match="get_image"):
        from_slmsuite(bench, Bench, **WINDOW)
    bench.hdr = (3, 2)  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(ArgumentError, match="hdr"):
        from_slmsuite(bench, bench, **WINDOW)


BENCH = Path(__file__).parent / "data" / "bench.yaml"


class Plain:
    """An object with properties, as an instrument of PyMeasure is one: y = (θ₀ x, θ₁ + x)."""

    def __init__(self) -> None:
        self.fault: Exception | None = None
        self.down = False
        self._a = self._b = self._x = 0.0

    def _set(self, name, value):
        if self.fault is not None:
            raise self.fault
        setattr(self, name, value)

    a = property(lambda self: self._a, lambda self, value: self._set("_a", value))
    b = property(lambda self: self._b, lambda self, value: self._set("_b", value))
    drive = property(lambda self: self._x, lambda self, value: self._set("_x", value))
    product = property(lambda self: self._a * self._x)
    total = property(lambda self: np.float64(self._b + self._x))
    word = property(lambda self: "overload")

    def shutdown(self):
        self.down = True


NAMES = {"parameters": ["a", "b"], "inputs": ["drive"], "outputs": ["product", "total"]}


def test_properties_are_a_device():
    bench = Plain()
    device = from_pymeasure(bench, **NAMES, theta_low=-2.0, theta_high=2.0, low=-5.0, high=5.0)
    bp.testing.check_device(device)
    device.program(torch.tensor([2.0, 1.0]))
    assert torch.equal(device.read(torch.tensor([[3.0], [4.0]])), torch.tensor([[6.0, 4.0], [8.0, 5.0]]))
    device.close()
    assert bench.down


def test_properties_of_channels_and_of_several_instruments():
    one, two = Plain(), Plain()
    one.channel = two  # pyright: ignore[reportAttributeAccessIssue]
    device = from_pymeasure([one, two], parameters=["0.a"], inputs=["1.drive"], outputs=["0.channel.total"])
    device.program(torch.zeros(1))
    assert float(device.read(torch.ones(1, 1))) == 1.0
    for wrong, words in (("2.a", "does not lead"), ("0.c", "no property")):
        with pytest.raises(ArgumentError, match=words):
            from_pymeasure([one, two], parameters=[wrong], inputs=["1.drive"], outputs=["0.total"])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"parameters": ["a", "shutdown"]}, "shutdown"),  # a method, which a value would replace
        ({"inputs": ["product"]}, "cannot be set"),
        ({"inputs": ["a"]}, "a row would replace"),
    ],
    ids=["method", "read only", "both"],
)
def test_properties_that_cannot_be_written_are_refused(change, words):
    with pytest.raises(ArgumentError, match=words):
        from_pymeasure(Plain(), **{**NAMES, **change})
    with pytest.raises(ArgumentError, match="class Plain"):
        from_pymeasure(Plain, **NAMES)


@pytest.mark.parametrize(
    ("fault", "error"), [(TimeoutError("no answer"), InDoubtError), (ValueError("0 to 5 V"), DeviceError)]
)
def test_an_instrument_that_fails_is_told_and_set_again(fault, error):
    bench = Plain()
    device = from_pymeasure(bench, **NAMES)
    device.program(torch.tensor([2.0, 1.0]))
    bench.fault = fault
    with pytest.raises(error, match=str(fault) if error is InDoubtError else f"'drive'.*{fault}"):
        device.read(torch.ones(1, 1))
    bench.fault = None
    device.program(torch.tensor([2.0, 1.0]))
    assert torch.equal(device.read(torch.ones(1, 1)), torch.tensor([[2.0, 2.0]]))
    with pytest.raises(ReadingError, match="overload"):
        from_pymeasure(bench, **{**NAMES, "outputs": ["word"]}).read(torch.ones(1, 1))


@pytest.mark.filterwarnings("ignore")
def test_an_instrument_of_pymeasure_over_visa():
    pytest.importorskip("pymeasure", reason="PyMeasure is not installed: pip install pymeasure")
    pytest.importorskip("pyvisa_sim", reason="PyVISA-sim is not installed")
    from pymeasure.adapters import VISAAdapter
    from pymeasure.instruments import Channel, Instrument
    from pymeasure.instruments.validators import strict_range

    class Output(Channel):
        voltage = Channel.control(
            "SOUR{ch}:VOLT?", "SOUR{ch}:VOLT %f", "voltage (V)", validator=strict_range, values=[-5, 10]
        )

    class Source(Instrument):
        channels = Instrument.MultiChannelCreator(Output, (1, 2, 3, 4))

    adapter = VISAAdapter("GPIB0::8::INSTR", f"{BENCH}@sim", read_termination="\n", write_termination="\n")
    source = Source(adapter, "source", includeSCPI=False)
    names = {"parameters": ["ch_1.voltage", "ch_2.voltage"], "inputs": ["ch_3.voltage"]}
    device = from_pymeasure(source, **names, outputs=["ch_3.voltage", "ch_1.voltage"], theta_low=-5.0, theta_high=10.0)
    bp.testing.check_device(device, rows=3, parameters=2, subsets=2, repeats=2)
    device.program(torch.tensor([1.5, -2.0]))
    assert device.read(torch.tensor([[1.0], [2.5]])).tolist() == [[1.0, 1.5], [2.5, 1.5]]
    with pytest.raises(DeviceError, match="99"):
        device.read(torch.tensor([[99.0]]))  # the driver of PyMeasure refuses it
    adapter.close()
    with pytest.raises(DeviceError, match="failed"):
        device.program(torch.zeros(2))


@pytest.mark.filterwarnings("ignore")
def test_signals_of_ophyd_are_a_device():
    ophyd = pytest.importorskip("ophyd", reason="ophyd is not installed: pip install ophyd")
    a, x = ophyd.Signal(name="a", value=0.0), ophyd.Signal(name="x", value=0.0)
    y = ophyd.DerivedSignal(derived_from=x, name="y")
    y.inverse = lambda value: a.get() * value  # reads the product
    device = from_ophyd(parameters=[a], inputs=[x], outputs=[y], theta_low=-2.0, theta_high=2.0)
    bp.testing.check_device(device)
    device.program(torch.tensor([2.0]))
    assert device.read(torch.tensor([[1.0], [3.0]])).tolist() == [[2.0], [6.0]]
    device.close()


@pytest.mark.filterwarnings("ignore")
def test_a_motor_that_does_not_arrive_is_told():
    ophyd = pytest.importorskip("ophyd", reason="ophyd is not installed: pip install ophyd")

    class Stuck(ophyd.Signal):
        def set(self, value, **more):
            del value, more
            return ophyd.status.Status(self)

    a, x = ophyd.Signal(name="a", value=0.0), Stuck(name="x", value=0.0)
    device = from_ophyd(parameters=[a], inputs=[x], outputs=[a], timeout=0.2)
    device.program(torch.zeros(1))
    with pytest.raises(InDoubtError, match="reading failed"):
        device.read(torch.zeros(1, 1))


def _soft():
    core = pytest.importorskip("ophyd_async.core", reason="ophyd-async is not installed: pip install ophyd-async")
    a, x = (core.soft_signal_rw(float, 0.0, name=name) for name in "ax")
    y = core.soft_signal_rw(core.Array1D[np.float64], np.zeros(2), name="y")
    return core, a, x, y


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("own", [True, False])
def test_signals_of_ophyd_async_are_a_device(own):
    _, a, x, _ = _soft()
    loop = None
    if not own:
        loop = asyncio.new_event_loop()
        thread = threading.Thread(target=loop.run_forever, daemon=True)
        thread.start()
        for each in (a, x):
            asyncio.run_coroutine_threadsafe(each.connect(), loop).result(5)
    device = from_ophyd(parameters=[a], inputs=[x], outputs=[a, x], loop=loop)
    bp.testing.check_device(device)
    device.program(torch.tensor([2.0]))
    assert device.read(torch.tensor([[1.0], [3.0]])).tolist() == [[2.0, 1.0], [2.0, 3.0]]
    threads = threading.active_count()
    device.close()
    assert threading.active_count() == threads - own
    if loop is not None:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@pytest.mark.filterwarnings("ignore")
def test_an_array_whose_size_changes_is_refused():
    _, a, x, y = _soft()
    device = from_ophyd(parameters=[a], inputs=[x], outputs=[y])
    device.program(torch.zeros(1))
    assert device.read(torch.zeros(1, 1)).tolist() == [[0.0, 0.0]]
    device._line._run(_set(y, np.zeros(3)))  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(ReadingError, match="expected 2"):
        device.read(torch.zeros(1, 1))
    device.close()


async def _set(signal, value):
    await signal.set(value)


@pytest.mark.filterwarnings("ignore")
def test_a_signal_that_cannot_be_connected_is_told():
    class Away:
        name = "away"

        async def connect(self, timeout):
            await asyncio.sleep(10 * timeout)

        async def get_value(self):
            return 0.0

        def set(self, value):
            return asyncio.sleep(0, value)

    with pytest.raises(UnreachableError, match=r"away cannot be connected"):
        from_ophyd(parameters=[Away()], inputs=[Away()], outputs=[Away()], timeout=0.1)
    assert not [thread for thread in threading.enumerate() if thread.name == "blackprop-ophyd"]


def test_objects_that_cannot_be_used_are_refused():
    class Settable:
        def set(self, value):
            del value

    one = Settable()
    with pytest.raises(ArgumentError, match="outputs"):
        from_ophyd(parameters=[one], inputs=[Settable()], outputs=[Settable()])
    with pytest.raises(ArgumentError, match="different"):
        from_ophyd(parameters=[one, one], inputs=[one], outputs=[one])
    with pytest.raises(ArgumentError, match="list"):
        from_ophyd(parameters=one, inputs=[one], outputs=[one])  # pyright: ignore[reportArgumentType]
    with pytest.raises(ArgumentError, match="a row would replace"):
        from_ophyd(parameters=[one], inputs=[one], outputs=[Value()])
    with pytest.raises(ArgumentError, match=r"several signals.*readback"):
        from_ophyd(parameters=[one], inputs=[Settable()], outputs=[Value(Motor(0.0, 0.0))])
    with pytest.raises(ArgumentError, match="runs"):
        loop = SimpleNamespace(is_running=lambda: False)
        from_ophyd(parameters=[one], inputs=[Settable()], outputs=[Value()], loop=loop)  # pyright: ignore[reportArgumentType]


class Motor(NamedTuple):
    readback: float
    setpoint: float


class Value:
    def __init__(self, value=0.0):
        self.get = lambda: value
