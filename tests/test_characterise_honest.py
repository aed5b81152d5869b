"""What healthy devices are called whose readings are rounded, offset, clipped or periodic in their inputs."""

from __future__ import annotations

import math
import re
import time

import pytest
import torch
from torch import Tensor

import blackprop as bp
from blackprop import Budget, Coupling
from blackprop.characterisation import Characterisation
from blackprop.devices import Declared, LightModulator, Microring, MZIMesh, Noisy
from test_characterise import PUBLISHED, wired
from test_characterise_faults import D_IN, D_OUT, SIZE, device, matrix


class Camera(bp.devices.Device):
    """Readings as a camera has them: above a dark level, rounded to `1/levels` of full scale, clipped at its end."""

    def __init__(
        self, inner: bp.Device, *, dark: float = 0.0, levels: int | None = None, full: float = math.inf
    ) -> None:
        super().__init__(inner.in_shape, inner.out_shape, inner.theta)
        self.inner, self.dark, self.levels, self.full = inner, dark, levels, full

    def program(self, theta: Tensor, /) -> None:
        self.inner.program(theta)

    def read(self, x: Tensor, /) -> Tensor:
        y = self.inner.read(x) + self.dark
        if self.levels is not None:
            y = (y * self.levels / 4).round() * 4 / self.levels
        return y.clamp(-self.full, self.full)


def figures(text: str) -> list[float]:
    """Every number in a report, but those of a line to paste."""
    return [abs(float(number)) for number in re.findall(r"(?<![\w.])-?\d+(?:\.\d+)?(?:e[+-]?\d+)?", text)]


def assert_sound(found: Characterisation) -> None:
    assert found.diagnoses == ()
    assert "WRONG" not in str(found)
    assert max(figures(str(found).replace(",", ""))) < 1e6, found
    assert 0 < found.step < 10
    bp.plan(found.device, 16)


@pytest.mark.parametrize("noise", [0.0, 1e-3, 0.02])
@pytest.mark.parametrize("inner", PUBLISHED, ids=lambda d: type(d).__name__)
def test_rounded_readings_are_told_as_rounded_and_the_device_as_it_is(inner: bp.Simulator, noise: float):
    found = bp.characterise(Camera(Noisy(wired(inner), read=noise), levels=64))
    spec = found.declaration
    assert_sound(found)
    assert found["resolution"].value == pytest.approx(4 / 64, rel=1e-3)
    assert not inner.linear or spec.linear, found["linear"]
    assert spec.coupling in (inner.coupling, Coupling.NONE)
    assert spec.noise > 0 or not found["noise"].known


@pytest.mark.parametrize("noise", [0.0, 0.02])
@pytest.mark.parametrize("levels", [None, 64])
def test_a_dark_level_is_told_and_subtracting_it_makes_the_device_what_it_is(noise: float, levels: int | None):
    inner = Noisy(Declared(Microring(D_IN, D_OUT)), read=noise)
    found = bp.characterise(Camera(inner, dark=3.0, levels=levels))
    assert_sound(found)
    assert found["dark level"].value == pytest.approx(3.0, rel=0.02)
    assert not found.declaration.linear
    assert any("subtract" in each for each in found.conclusion.advice)

    class Subtracted(Camera):
        def read(self, x: Tensor, /) -> Tensor:
            return super().read(x) - 3.0

    again = bp.characterise(Subtracted(inner, dark=3.0, levels=levels))
    assert again.declaration.linear
    assert again["dark level"].value == 0
    assert again.conclusion.advice == ()


def test_an_offset_of_what_is_not_linear_is_no_reason_to_subtract_it():
    found = bp.characterise(Camera(device(lambda x, theta: (x @ matrix(theta).mT).square()), dark=5.0, levels=64))
    assert_sound(found)
    assert found["dark level"].value == pytest.approx(5.0, rel=0.02)
    assert not any("subtract" in each for each in found.conclusion.advice)


@pytest.mark.parametrize("noise", [0.0, 0.02])
@pytest.mark.parametrize(("unit", "period"), [(1.0, 2 * math.pi), (2 * math.pi, 1.0)])
def test_a_device_that_is_periodic_in_its_inputs_is_not_called_saturated(noise: float, unit: float, period: float):
    inner = device(lambda x, theta: (unit * x[:, None] + theta.view(D_OUT, D_IN)).cos().sum(2))
    found = bp.characterise(Noisy(inner, read=noise))
    assert_sound(found)
    assert found["period in x"].value == pytest.approx(period)
    assert any("within one period" in each for each in found.conclusion.advice)


def test_a_period_of_some_inputs_is_not_claimed_of_all():
    stiff = torch.ones(D_IN)
    stiff[2] = 0.7
    inner = device(lambda x, theta: ((stiff * x)[:, None] + theta.view(D_OUT, D_IN)).cos().sum(2))
    found = bp.characterise(inner)
    assert_sound(found)
    assert not found["period in x"].known


@pytest.mark.parametrize("noise", [0.0, 0.02])
def test_clipping_is_told_where_rows_reach_it(noise: float):
    inner = Noisy(Declared(Microring(D_IN, D_OUT)), read=noise)
    beyond = bp.characterise(Camera(inner, full=40.0))
    assert_sound(beyond)
    assert beyond.declaration.coupling is Coupling.ELEMENT
    near = bp.characterise(Camera(inner, full=0.4))
    assert any("saturated" in each and "one end" in each for each in near.diagnoses)
    assert not near.declaration.linear


def circuit(second: float) -> bp.Device:
    """Products of sinusoids of single parameters, as of rotations of qubits; one of them with a `second` harmonic."""

    def fn(x: Tensor, t: Tensor) -> Tensor:
        spins = (x + t[:4]).cos() * t[4:8].cos() + (x.roll(1, 1) + t[8:12]).sin() * t[12:16].sin()
        return spins + (t[16:20].sin() * t[20:24].cos()).sum() + second * (2 * t[3]).cos()

    return bp.devices.from_callable(
        fn, in_shape=4, out_shape=4, theta_size=24, initial=lambda g: 0.5 + torch.rand(24, generator=g)
    )


@pytest.mark.parametrize("noise", [0.0, 0.01])
def test_one_harmonic_a_parameter_is_found_and_a_second_one_forbids_it(noise: float):
    found = bp.characterise(Noisy(circuit(0.0), read=noise))
    assert_sound(found)
    assert found["harmonics"].value == 1
    assert found.declaration.theta.harmonics == 1
    assert isinstance(bp.plan(found.device, 16).estimator, bp.estimators.ParameterShift)
    bp.testing.check_device(found.device, tolerance=2e-4)
    other = bp.characterise(Noisy(circuit(0.3), read=noise))
    assert other.declaration.theta.harmonics is None


def test_a_step_that_shows_nothing_is_unknown_and_no_figure_of_it_absurd():
    coarse = Camera(Declared(LightModulator(D_IN, D_OUT)), levels=2)
    found = bp.characterise(coarse)
    assert "of the slope" not in found["step"].evidence or max(figures(found["step"].evidence)) < 100
    assert 0 < found.step < 10


@pytest.mark.parametrize("hidden", [False, True])
def test_the_line_to_paste_makes_the_device_that_was_found(hidden: bool, tmp_path, monkeypatch: pytest.MonkeyPatch):
    for inner in (Microring(D_IN, D_OUT), Microring(12, 8), MZIMesh(4, 4)):
        found = bp.characterise(Noisy(wired(inner) if hidden else Declared(inner), read=0.01))
        found.save(tmp_path)
        monkeypatch.chdir(tmp_path)
        space = {"bp": bp, "torch": torch, "device": found.device.device}
        exec(found.conclusion.line, space)
        made, spec = space["device"], found.declaration
        same = ("linear", "coupling", "noise", "cost")
        assert [getattr(made.declaration, name) for name in same] == [getattr(spec, name) for name in same]
        assert made.theta.period == spec.theta.period
        assert torch.equal(
            made.theta.draw(torch.Generator().manual_seed(0)), spec.theta.draw(torch.Generator().manual_seed(0))
        )
        assert str(found).splitlines()[2].startswith("declare")
        assert bp.PhysicalLayer(made).reason in found.conclusion.plan
        page = (tmp_path / "report.html").read_text()
        body = page[page.index("<body>") :]
        assert (
            body.index("bp.devices.Declared(device")
            < body.index('<div class="cards">')
            < body.index("<h2>coupling</h2>")
        )
        assert body.index("<h2>coupling</h2>") < body.index("<h2>noise</h2>")


def test_the_clock_tells_a_cost_that_is_not_declared():
    class Slow(bp.Device):
        """2 ms a programming, 50 µs a row."""

        def __init__(self, **declared) -> None:
            super().__init__(D_IN, D_OUT, bp.ThetaSpec(SIZE, lambda g: torch.rand(SIZE, generator=g)), **declared)

        def program(self, theta: Tensor, /) -> None:
            time.sleep(2e-3)
            self.A = matrix(theta)

        def read(self, x: Tensor, /) -> Tensor:
            time.sleep(5e-5 * len(x))
            return x @ self.A.mT

    cost = bp.characterise(Slow()).declaration.cost
    assert 1.5e-3 < cost.programming < 8e-3
    assert 3e-5 < cost.row < 3e-4
    declared = bp.Cost(1.0, 2.0)
    found = bp.characterise(Slow(cost=declared), Budget(programmings=60))
    assert found.declaration.cost == declared
    assert "declared are 1 s a programming" in found["cost"].evidence
