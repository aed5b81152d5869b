"""The contract of devices holds for all of ours, and every liar is caught."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

import blackprop as bp
from blackprop.devices import Diffraction
from blackprop.errors import ContractError
from blackprop.testing import check_device
from simulators import SIMULATORS
from support import Opaque


@pytest.mark.parametrize("device", SIMULATORS, ids=str)
def test_simulators_keep_their_contract(device):
    report = check_device(device)
    claims = dict(report.claims)
    assert claims["noise"] == "none"
    assert device.linear == claims["linear"].startswith("within")
    assert report.rows > 100
    assert str(report).count("\n") == len(report.claims)


@pytest.mark.parametrize(
    ("device", "options"),
    [
        (bp.devices.Noisy(bp.devices.LightModulator(5, 4), read=0.02), {}),
        (bp.devices.Noisy(bp.devices.Microring(5, 4), read=0.01, proportional=0.1), {}),
        (bp.devices.Noisy(Diffraction(9, 4), read=0.02), {}),
        (bp.devices.Drifting(bp.devices.LightModulator(5, 4), per_programming=0.01, initial=0.1), {}),
        (bp.devices.Drifting(bp.devices.Matrix(5, 4), per_root_second=0.01), {}),
        (
            bp.devices.Quantised(bp.devices.LightModulator(5, 4), input_bits=12, theta_bits=6, output_bits=12),
            {"tolerance": 0.02},
        ),
        (bp.devices.Noisy(bp.devices.Drifting(bp.devices.MZIMesh(3, 4), per_programming=0.001), read=0.01), {}),
        (Opaque(bp.devices.LowRank(5, 4, rank=2)), {}),
        (
            bp.devices.from_callable(
                lambda x, theta: torch.tanh(x * theta),
                in_shape=(2, 3),
                out_shape=(2, 3),
                theta_size=1,
                initial=lambda g: torch.rand(1, generator=g),
                low=-1.0,
                high=torch.tensor([2.0]),
            ),
            {},
        ),
    ],
    ids=str,
)
def test_wrappers_and_hardware_keep_their_contract(device, options):
    claims = dict(check_device(device, **options).claims)
    noisy = isinstance(device, (bp.devices.Noisy, bp.devices.Drifting))
    assert (claims["noise"] != "none") == noisy


def test_noise_is_measured():
    device = bp.devices.Noisy(bp.devices.Matrix(20, 20), proportional=0.1)
    assert float(dict(check_device(device, noise=0.2).claims)["noise"].split()[0]) == pytest.approx(0.1, rel=0.2)
    with pytest.raises(ContractError, match=r"noise: measured 0\.\d+ of the output, declared at most 0\.05"):
        check_device(device, noise=0.05)


def test_a_row_coupled_device_keeps_its_contract():
    class Gains(bp.Device):
        """`y_i = sin(θ_{i0} + θ_{i1} ⟨w_i, x⟩)`, with its own two numbers for every output."""

        def __init__(self):
            initial = lambda g: torch.rand(6, generator=g)  # noqa: E731
            super().__init__(4, 3, bp.ThetaSpec(6, initial), coupling=bp.Coupling.ROW)

        def program(self, theta, /):
            self.pairs = theta.reshape(3, 2).clone()

        def read(self, x, /):
            mixed = x @ torch.eye(4, 3, dtype=x.dtype)
            return torch.sin(self.pairs[:, 0] + self.pairs[:, 1] * mixed)

    assert "coupling ROW" in dict(check_device(Gains()).claims)


class _Liar(bp.Device):
    """A matrix, 5 → 4, that lies as it is told to."""

    def __init__(self, spec=None, **declared):
        spec = spec or bp.devices.Matrix(5, 4).theta
        super().__init__(5, 4, spec, **declared)
        self.matrix = torch.zeros(4, 5)

    def program(self, theta, /):
        self.matrix = theta.reshape(4, 5).clone()

    def read(self, x, /):
        return x @ self.matrix.mT


class _Curved(_Liar):
    def read(self, x, /):
        return torch.tanh(super().read(x))


class _Offset(_Liar):
    def read(self, x, /):
        return super().read(x) + 0.1


class _Transposed(_Liar):
    def program(self, theta, /):
        self.matrix = theta.reshape(5, 4).mT.contiguous()


class _Crosstalk(_Liar):
    def program(self, theta, /):
        super().program(theta)
        self.matrix[2, 1] += 0.05 * theta[13] ** 2


class _Columns(_Liar):
    """Every parameter of a column moves every output of it."""

    def program(self, theta, /):
        self.matrix = theta.reshape(4, 5).cumsum(0)


class _Overwrites(_Liar):
    def read(self, x, /):
        y = super().read(x)
        x.mul_(2)
        return y


class _Wraps(_Liar):
    def program(self, theta, /):
        theta.remainder_(0.1)
        super().program(theta)


class _BatchMean(_Liar):
    def read(self, x, /):
        y = super().read(x)
        return y - y.mean(0)


class _FirstSettingOnly(_Liar):
    def measure(self, queries, /):
        return super().measure([replace(query, theta=queries[0].theta) for query in queries])


class _Hysteresis(_Liar):
    def program(self, theta, /):
        self.matrix = (0.95 * theta + 0.05 * self.matrix.flatten()).reshape(4, 5)


class _Afterglow(_Liar):
    last = 0.0

    def read(self, x, /):
        y = super().read(x) + 0.01 * self.last
        self.last = float(x.mean())
        return y


class _Buffer(_Liar):
    """Hands out the same memory at every reading of this size."""

    def __init__(self):
        super().__init__()
        self.buffers = {}

    def read(self, x, /):
        return self.buffers.setdefault((len(x), x.dtype), x.new_zeros(len(x), 4)).copy_(super().read(x))


class _Double(_Liar):
    def read(self, x, /):
        return super().read(x).double()


class _Single(_Liar):
    """An instrument with a precision of its own: no lie."""

    def read(self, x, /):
        return x.float() @ self.matrix.float().mT


class _Dark(bp.Device):
    """Not linear, and dark where it starts."""

    def __init__(self):
        super().__init__(5, 5, 5, linear=True)

    def program(self, theta, /):
        self.setting = theta.clone()

    def read(self, x, /):
        return (x * self.setting).abs()


class _Half(_Liar):
    def read(self, x, /):
        return super().read(x)[: len(x) // 2]


class _NaN(_Liar):
    def read(self, x, /):
        return super().read(x).sqrt()


class _Graph(_Liar):
    def read(self, x, /):
        with torch.enable_grad():
            return super().read(x)


class _Verbs(_Liar):
    def measure(self, queries, /):
        return [1.01 * y for y in super().measure(queries)]


class _Forgets(_Liar):
    @property
    def programmed(self):
        return None


class _Oversized(_Liar):
    def program(self, theta, /):
        super().program(theta[:20])


class _Dead(_Liar):
    def program(self, theta, /):
        self.matrix = torch.ones(4, 5, dtype=theta.dtype)


class _Counts(bp.devices.Matrix):
    reads = 0

    def transfer(self, x, theta, /):
        self.reads += 1
        return super().transfer(x, theta) * (1 + 0.001 * self.reads)


class _Fussy(_Liar):
    def program(self, theta, /):
        if bool((theta >= 1).any()):
            raise bp.errors.LimitError("the instrument refuses 1")
        super().program(theta)


ELEMENT = {"linear": True, "coupling": bp.Coupling.ELEMENT}
ROW = {"linear": True, "coupling": bp.Coupling.ROW}
SINE = bp.ThetaSpec(20, lambda g: torch.rand(20, generator=g), period=math.pi)


@pytest.mark.parametrize(
    ("device", "message"),
    [
        (_Curved(linear=True), "linear: measured off by"),
        (_Offset(linear=True), "linear: measured off by"),
        (_Transposed(**ELEMENT), r"coupling ELEMENT: measured that parameter \d+ moves A\[\d, \d\]"),
        (_Crosstalk(**ELEMENT), r"coupling ELEMENT: measured that parameter 13 moves A\[2, 1\] \(output 2\)"),
        (
            _Oversized(bp.ThetaSpec(40, lambda g: torch.rand(40, generator=g)), **ELEMENT),
            "coupling ELEMENT: measured linear=True, P = 40",
        ),
        (_Curved(coupling=bp.Coupling.ELEMENT), "coupling ELEMENT: measured linear=False"),
        (_Columns(**ROW), r"coupling ROW: measured that parameter \d+ moves output \d"),
        (_Transposed(**ROW), r"coupling ROW: measured that parameter \d+ moves output \d"),
        (_Liar(SINE), r"period 3\.142: measured the answer with parameter \d+"),
        (_Overwrites(), "leaves the rows as sent"),
        (_Wraps(), "leaves the setting as sent"),
        (_BatchMean(), "one at a time|rows alone"),
        (_FirstSettingOnly(), "history|one at a time|parameters"),
        (_Hysteresis(), "do not depend on history"),
        (_Afterglow(), "do not depend on history"),
        (_Double(), r"readings: the calibrate query .* returned torch\.float64"),
        (_Dark(), "linear: measured off by"),
        (_Half(), "returned shape"),
        (_NaN(), "not finite"),
        (_Verbs(), "program and read agree"),
        (_Forgets(), "programmed: measured another setting"),
        (_Dead(), "parameters move outputs"),
        (_Counts(5, 4), "noise: measured .* declared at most 0"),
        (_Liar(bp.ThetaSpec(20, lambda g: torch.rand(20, generator=g), low=0.5)), "initial setting: theta"),
        (_Liar(bp.ThetaSpec(20, lambda g: torch.rand(20))), "initial setting: measured another one"),
        (_Fussy(bp.ThetaSpec(20, lambda g: torch.rand(20, generator=g) / 2, low=0.0, high=1.0)), "at its limits"),
    ],
    ids=lambda value: type(value).__name__.strip("_") if isinstance(value, bp.Device) else "",
)
def test_lying_devices_are_caught(device, message):
    with pytest.raises(ContractError, match=message):
        check_device(device)


def test_an_honest_matrix_is_no_liar():
    check_device(_Liar(**ELEMENT))
    check_device(_Liar(**ROW))


def test_a_linear_device_that_says_nothing_gets_a_hint():
    assert "looks linear" in dict(check_device(_Liar()).claims)["linear"]
    assert "looks linear" not in dict(check_device(_Curved()).claims)["linear"]


@pytest.mark.parametrize("device", [_Buffer(), _Single(), _Graph()], ids=["buffer", "float32", "graph"])
def test_what_instruments_do_is_no_lie(device):
    """One acquisition buffer for every reading, a precision of one's own, a stray autograd graph."""
    assert "readings stay" in str(check_device(device))


def test_a_contract_error_is_an_assertion():
    with pytest.raises(AssertionError):
        check_device(_Curved(linear=True))
    assert issubclass(ContractError, bp.errors.BlackpropError)
    assert isinstance(check_device(_Liar()), bp.testing.Report)
