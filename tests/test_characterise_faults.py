"""What `characterise` says of devices that are at fault, and of those built to deceive it."""

from __future__ import annotations

import math
import time

import pytest
import torch
from torch import Tensor

import blackprop as bp
from blackprop import Coupling
from support import draw

D_IN, D_OUT = 6, 4
SIZE = D_IN * D_OUT
SHAPES = {"in_shape": D_IN, "out_shape": D_OUT, "theta_size": SIZE}


def spread(generator: torch.Generator) -> Tensor:
    return torch.rand(SIZE, generator=generator) + 0.5


def matrix(theta: Tensor) -> Tensor:
    return theta.cos().view(D_OUT, D_IN)


def device(fn, **kwargs) -> bp.Device:
    return bp.devices.from_callable(fn, initial=spread, **SHAPES, **kwargs)


class Sluggish(bp.Device):
    """Each reading brings the phases half of the way to where they were sent."""

    def __init__(self) -> None:
        super().__init__(D_IN, D_OUT, bp.ThetaSpec(SIZE, spread))
        self.target, self.phases = torch.zeros(SIZE), torch.zeros(SIZE)

    def program(self, theta: Tensor, /) -> None:
        self.target = theta.clone()

    def read(self, x: Tensor, /) -> Tensor:
        self.phases = (self.phases + self.target) / 2
        return x @ matrix(self.phases).mT


class Hysteretic(bp.Device):
    """What was written before shines through for good."""

    def __init__(self) -> None:
        super().__init__(D_IN, D_OUT, bp.ThetaSpec(SIZE, spread))
        self.before, self.now = torch.zeros(SIZE), torch.zeros(SIZE)

    def program(self, theta: Tensor, /) -> None:
        self.before, self.now = self.now, theta.clone()

    def read(self, x: Tensor, /) -> Tensor:
        return x @ matrix(0.95 * self.now + 0.05 * self.before).mT


class Remembering(bp.Device):
    """The setting before the last one shines through, and the row before."""

    def __init__(self, settings: float, rows: float) -> None:
        super().__init__(D_IN, D_OUT, bp.ThetaSpec(SIZE, spread))
        self.settings, self.rows = settings, rows
        self.written = [torch.zeros(SIZE)] * 3

    def program(self, theta: Tensor, /) -> None:
        self.written = [*self.written[1:], theta.clone()]

    def read(self, x: Tensor, /) -> Tensor:
        phases = self.written[-1] + self.settings * (self.written[-3] - self.written[-1])
        return (x + self.rows * x.roll(1, 0)) @ matrix(phases).mT


class Thermal(bp.Device):
    """Phases that come to rest in milliseconds, whoever looks."""

    def __init__(self) -> None:
        super().__init__(D_IN, D_OUT, bp.ThetaSpec(SIZE, spread))
        self.start, self.goal, self.since = torch.zeros(SIZE), torch.zeros(SIZE), 0.0

    def phases(self) -> Tensor:
        return self.goal + (self.start - self.goal) * math.exp((self.since - time.monotonic()) / 2e-3)

    def program(self, theta: Tensor, /) -> None:
        self.start, self.goal, self.since = self.phases(), theta.clone(), time.monotonic()

    def read(self, x: Tensor, /) -> Tensor:
        return x @ matrix(self.phases()).mT


def growing():
    count = 0

    def fn(x: Tensor, theta: Tensor) -> Tensor:
        nonlocal count
        count += 1
        y = x @ matrix(theta).mT
        return y if count < 12 else torch.cat((y, y), 1)

    return fn


GENERATOR = torch.Generator().manual_seed(7)
FAULTY = {
    "noisier than its signal": lambda: bp.devices.Noisy(bp.devices.LightModulator(D_IN, D_OUT), read=3.0),
    "θ moves nothing": lambda: device(lambda x, theta: x @ draw(D_IN, D_OUT)),
    "x moves nothing": lambda: device(lambda x, theta: theta[:D_OUT].cos().expand(len(x), -1)),
    "saturated": lambda: device(lambda x, theta: (20 * x @ matrix(theta).mT).clamp(-1, 1)),
    "slow to settle": Sluggish,
    "slow to settle: just": Thermal,
    "setting before but one": lambda: Remembering(0.03, 0.0),
    "rows before": lambda: Remembering(0.0, 0.05),
    "random": lambda: device(lambda x, theta: torch.randn(len(x), D_OUT, generator=GENERATOR)),
    "expected (8, 4)": lambda: device(growing()),
    "remembers": Hysteretic,
    "dark": lambda: device(lambda x, theta: torch.zeros(len(x), D_OUT)),
    "not finite": lambda: device(lambda x, theta: x @ matrix(theta).mT / 0),
}


@pytest.mark.parametrize("fault", FAULTY)
def test_a_faulty_device_is_named(fault: str):
    found = bp.characterise(FAULTY[fault]())
    assert any(fault in diagnosis for diagnosis in found.diagnoses), found.diagnoses
    assert fault in str(found)
    assert found.declaration.coupling is not Coupling.ELEMENT or fault == "noisier than its signal"


def test_a_sound_device_has_no_diagnosis():
    assert bp.characterise(device(lambda x, theta: x @ matrix(theta).mT)).diagnoses == ()


def test_linear_except_far_out_is_not_claimed_linear():
    found = bp.characterise(device(lambda x, theta: 9 * ((x @ matrix(theta).mT) / 9).clamp(-1, 1)))
    assert not found["linear"].known
    assert "times" in found["linear"].evidence
    assert not found.declaration.linear


@pytest.mark.parametrize("noise", [0.0, 0.02])
def test_element_coupling_with_cross_talk_in_a_few_parameters_is_not_claimed(noise: float):
    hidden = torch.randperm(SIZE, generator=torch.Generator().manual_seed(1))

    def fn(x: Tensor, theta: Tensor) -> Tensor:
        A = theta[hidden].cos()
        A[7] = A[7] + 0.3 * theta[hidden[20]].sin()  # one in twenty-four
        return x @ A.view(D_OUT, D_IN).mT

    for wired in (hidden, torch.arange(SIZE)):
        hidden = wired
        found = bp.characterise(bp.devices.Noisy(device(fn), read=noise))
        assert found.declaration.coupling is Coupling.NONE, found["coupling"]
        assert found.declaration.linear


def test_noise_that_depends_on_the_setting_is_unknown_and_declared_at_its_worst():
    generator = torch.Generator().manual_seed(3)

    def fn(x: Tensor, theta: Tensor) -> Tensor:
        y = x @ matrix(theta).mT
        size = 0.02 * (1 + 5 * float((theta - 1).square().mean()))
        return y + size * torch.randn(y.shape, generator=generator)

    found = bp.characterise(device(fn))
    assert not found["noise"].known
    assert "setting" in found["noise"].evidence
    assert found.declaration.noise > 0


@pytest.mark.parametrize("tilt", [0.001, 0.01, 0.1])
def test_a_period_that_is_not_quite_one_is_not_claimed(tilt: float):
    def fn(x: Tensor, theta: Tensor) -> Tensor:
        return x @ (theta.cos() + tilt * theta / (2 * math.pi)).view(D_OUT, D_IN).mT

    found = bp.characterise(device(fn, period=2 * math.pi))
    assert found.declaration.theta.period is None
    assert tilt > 0.05 or not found["period"].known


def test_a_period_of_all_but_one_parameter_is_not_claimed():
    stiff = torch.ones(SIZE)
    stiff[5] = 0.7

    found = bp.characterise(device(lambda x, theta: x @ (theta * stiff).cos().view(D_OUT, D_IN).mT))
    assert found.declaration.theta.period is None
    assert found.declaration.coupling is Coupling.ELEMENT


def test_units_in_which_a_small_candidate_shows_nothing_do_not_pass_for_a_period():
    found = bp.characterise(device(lambda x, theta: x @ (theta / 4000).exp().view(D_OUT, D_IN).mT))
    assert found.declaration.theta.period is None
