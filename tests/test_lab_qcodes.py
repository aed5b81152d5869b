"""QCoDeS parameters as θ, inputs and outputs: their limits, their arrays, and their faults."""

from __future__ import annotations

import re
import sys

import numpy as np
import pytest
import torch

import blackprop as bp
from blackprop._extras import install
from blackprop.errors import ArgumentError, DeviceError, InDoubtError, LimitError, ReadingError
from blackprop.lab import QcodesDevice

pytest.importorskip("qcodes")

from qcodes.instrument import Instrument
from qcodes.instrument_drivers.mock_instruments import ArraySetPointParam, DummyInstrument, MultiGetter
from qcodes.parameters import ManualParameter, Parameter, ParameterWithSetpoints
from qcodes.validators import Anything, Arrays, Enum, Numbers

POINTS = np.arange(3.0)


class Bridge(Instrument):
    """balance = θ1 x1 + θ2 x2, and a spectrum of balance · (0, 1, 2)."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.fault: Exception | None = None
        self.answer: object = None
        for knob in ("r1", "r2"):
            self.add_parameter(knob, set_cmd=None, get_cmd=None, initial_value=0.0, vals=Numbers(-2, 0.1))
        for drive in ("v1", "v2"):
            self.add_parameter(drive, set_cmd=None, get_cmd=None, initial_value=0.0, vals=Anything())
        self.add_parameter("balance", get_cmd=self._balance)
        self.add_parameter("freq", get_cmd=lambda: POINTS, vals=Arrays(shape=(3,)))
        self.add_parameter(
            "spectrum",
            parameter_class=ParameterWithSetpoints,
            get_cmd=lambda: self._balance() * POINTS,
            setpoints=(self.freq,),
            vals=Arrays(shape=(3,)),
        )

    def _balance(self) -> object:
        if self.fault is not None:
            raise self.fault
        total = self.r1.cache() * self.v1.cache() + self.r2.cache() * self.v2.cache()
        return total if self.answer is None else self.answer


@pytest.fixture
def bridge():
    instrument = Bridge("bridge")
    yield instrument
    instrument.close()


def device_of(bridge: Bridge, *outputs: Parameter, **kwargs) -> QcodesDevice:
    outputs = outputs or (bridge.balance,)
    return QcodesDevice(theta=[bridge.r1, bridge.r2], inputs=[bridge.v1, bridge.v2], outputs=outputs, **kwargs)


def test_parameters_of_an_instrument_pass_the_contract(bridge):
    device = device_of(bridge, linear=True, coupling=bp.Coupling.ELEMENT)
    bp.testing.check_device(device)
    device.program(torch.tensor([-1.5, 0.1]))  # 0.1 in float32 is beyond the limit
    assert (bridge.r1(), bridge.r2()) == (-1.5, 0.1)
    y = device.read(torch.tensor([[2.0, 1.0], [0.0, 0.0]], dtype=torch.float64))
    torch.testing.assert_close(y, torch.tensor([[-2.9], [0.0]], dtype=torch.float64))


def test_arrays_are_several_outputs(bridge):
    array = ArraySetPointParam()
    device = device_of(bridge, bridge.spectrum, bridge.balance, array)
    assert device.out_shape == (3 + 1 + 5,)
    device.program(torch.tensor([-1.0, -0.5]))
    y = device.read(torch.tensor([[2.0, 2.0]]))
    torch.testing.assert_close(y[0, :4], torch.tensor([0.0, -3.0, -6.0, -3.0]))
    torch.testing.assert_close(y[0, 4:].double(), torch.as_tensor(np.asarray(array.get()), dtype=torch.float64))


def test_a_dummy_instrument_gives_its_limits_and_waits():
    waits: list[float] = []
    dummy = DummyInstrument("dummy")
    try:
        device = QcodesDevice(
            theta=[dummy.dac1],
            inputs=[dummy.dac2],
            outputs=[dummy.dac1, dummy.dac2],
            settle=2.0,
            settle_row=1.0,
            sleep=waits.append,
        )
        assert [float(limit) for limit in (device.theta.low, device.theta.high)] == [-800.0, 400.0]
        device.program(torch.tensor([399.5]))
        assert device.read(torch.tensor([[3.0], [-800.0]])).tolist() == [[399.5, 3.0], [399.5, -800.0]]
        assert waits == [2.0, 1.0, 1.0]
        with pytest.raises(LimitError, match=r"theta\[0\] = 401"):
            device.program(torch.tensor([401.0]))
        with pytest.raises(LimitError, match=r"entry 0 of row 1 is 401"):
            device.read(torch.tensor([[0.0], [401.0]]))
        assert (dummy.dac1(), dummy.dac2()) == (399.5, -800.0)
    finally:
        dummy.close()


def test_no_validator_is_no_limit():
    knob, drive, out = (ManualParameter(name, initial_value=0.0) for name in ("knob", "drive", "out"))
    assert not QcodesDevice(theta=[knob], inputs=[drive], outputs=[out]).theta.limited


def test_a_layer_around_it_trains(bridge):
    layer = bp.PhysicalLayer(device_of(bridge, linear=True, coupling=bp.Coupling.ELEMENT))
    x = torch.randn(64, 2)
    target = x @ torch.tensor([[-1.2], [-0.4]])
    optimizer = torch.optim.Adam([layer.theta], lr=0.05)
    for _ in range(150):
        optimizer.zero_grad()
        loss = (layer(x) - target).square().mean()
        loss.backward()
        optimizer.step()
    torch.testing.assert_close(layer.theta.detach(), torch.tensor([-1.2, -0.4]), atol=0.05, rtol=0)


@pytest.mark.parametrize(("fault", "kind"), [(TimeoutError("late"), InDoubtError), (OSError("USB"), DeviceError)])
def test_a_driver_that_fails_is_named_and_programmed_again(bridge, fault, kind):
    device = device_of(bridge)
    query = bp.Query(torch.ones(1, 2), torch.zeros(2), bp.Purpose.FORWARD)
    device.measure([query])
    bridge.fault = fault
    with pytest.raises(DeviceError, match=r"reading failed.*bridge_balance") as caught:
        device.measure([query])
    assert type(caught.value) is kind
    assert device.programmed is None


@pytest.mark.parametrize("answer", ["overload", 1j, np.array([1j]), [1.0, 2.0], {"y": 1}])
def test_what_is_no_number_is_named(bridge, answer):
    bridge.answer = answer
    with pytest.raises(ReadingError, match="`bridge_balance` returned"):
        device_of(bridge).read(torch.zeros(1, 2))


def test_what_cannot_be_built_says_so(bridge):
    good = {"theta": [bridge.r1], "inputs": [bridge.v1], "outputs": [bridge.balance]}
    loose = Parameter("loose", get_cmd=lambda: POINTS, vals=Arrays())
    choice = Parameter("choice", set_cmd=None, vals=Enum(0.0, 1.0))
    for name, parameters, message in (
        ("theta", [], "at least one"),
        ("theta", [bridge.r1, bridge.r1], "twice"),
        ("theta", [bridge.balance], "settable"),
        ("theta", [3.0], "settable"),
        ("inputs", [choice], "Numbers"),
        ("outputs", [Parameter("deaf", get_cmd=False, set_cmd=None)], "gettable"),
        ("outputs", [loose], "no declared shape"),
        ("outputs", [MultiGetter(one=1, two=(1, 2))], "several"),
    ):
        with pytest.raises(ArgumentError, match=message):
            QcodesDevice(**{**good, name: parameters})


def test_without_the_extra_it_says_what_to_install(bridge, monkeypatch):
    monkeypatch.setitem(sys.modules, "qcodes", None)
    with pytest.raises(ArgumentError, match=re.escape(install("lab"))):
        device_of(bridge)
