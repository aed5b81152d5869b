"""Measure the properties of a device by queries alone."""

from __future__ import annotations

import contextlib
import math
from collections import Counter
from collections.abc import Callable
from typing import Any, TypeVar

import torch

from blackprop.characterisation._characterisation import Characterisation
from blackprop.characterisation._clock import Clock, cost
from blackprop.characterisation._coupling import Wiring, coupling
from blackprop.characterisation._device_under_test import DeviceUnderTest
from blackprop.characterisation._drive import drive, input_limits
from blackprop.characterisation._findings import Finding, coupling_of, unknown
from blackprop.characterisation._harmonics import harmonics
from blackprop.characterisation._linearity import linearity
from blackprop.characterisation._response import period, response, useful_step
from blackprop.characterisation._signal import influence, signal
from blackprop.characterisation._stability import stability
from blackprop.characterisation.pulsed._array import Array
from blackprop.characterisation.pulsed._rest import rest
from blackprop.characterisation.pulsed._steps import steps
from blackprop.characterisation.two_way._reciprocity import reciprocity
from blackprop.characterisation.two_way._tap_gains import TapGains, tap_gains
from blackprop.core._budget import Budget
from blackprop.core._declaration import Cost, Coupling
from blackprop.core._ledger import Ledger
from blackprop.core._metered import metered
from blackprop.core._procedure import Procedure, ask, run
from blackprop.core._query import Count, Purpose
from blackprop.core.capabilities._pulse import Pulse
from blackprop.core.capabilities._read_back import ReadBack
from blackprop.devices import Declared, Device, Simulator
from blackprop.devices._wrapper import unwrapped
from blackprop.errors import ArgumentError, BudgetExhausted, ReadingError
from blackprop.planning._methods import step_size

T = TypeVar("T")
SHIFTED = 64  # parameters that parameter shift could be worth its programmings for
QUESTIONS = (
    "coupling",
    "reciprocal",
    "taps",
    "linear",
    "affine",
    "noise",
    "noise kind",
    "resolution",
    "dark level",
    "settling",
    "history",
    "drift",
    "period",
    "harmonics",
    "period in x",
    "response",
    "step",
    "cost",
)
PULSED = (
    "step size",
    "states",
    "asymmetry",
    "cell variation",
    "symmetric point",
    "cycle variation",
    "write noise",
    "retention",
)


def characterise(
    device: Device,
    budget: Budget | None = None,
    *,
    scale: float = 1.0,
    generator: torch.Generator | None = None,
) -> Characterisation:
    """Measure the properties of `device` and return them with a declaration.

    Measured are signal and noise, settling, history and drift, linearity, the period of θ, response curves, a useful
    step, the coupling, including a hidden wiring of the parameters, and, where the device declares that it is read
    backwards or has power taps, whether it is reciprocal and which gains the taps have. Declared shapes, limits and
    initial values are trusted; other declarations are not used. All queries are booked as `CALIBRATE` and stay within
    the limits of θ and within `budget`, the cheapest question first. When the budget ends, the remaining properties are
    unknown. Of a device that is moved by pulses, the cells of tile 0 are asked last: **they are moved** over their
    whole range, and come to rest elsewhere. At the end, also after an error, θ is the earlier setting, or the initial
    one. A faulty device is diagnosed, not refused.

    **Costs** some 200 programmings of 8 rows each, and for element coupling 9 d_in rows, or `(2 log2 P + 13) d_in` for
    a hidden wiring; of pulsed cells some 350 readings of the matrix, and pulses of about 30 times the number of states.

    **Arguments:**

    - `device`: the device.
    - `budget` (default None): a limit of rows and programmings.
    - `scale` (units of x, default 1): root mean square of the entries of the rows in later use; rows of up to three
      times that are sent.
    - `generator` (default: seed 0): draws the rows and settings.

    >>> import blackprop as bp
    >>> found = bp.characterise(bp.devices.Declared(bp.devices.LightModulator(4, 3)))
    >>> found.declaration.linear, found.declaration.coupling.value, round(found.declaration.theta.period, 4)
    (True, 'element', 6.2832)
    """
    if not isinstance(device, Device):
        raise ArgumentError(f"`characterise(device)` takes a Device, got {device!r}")
    if not 0 < scale < float("inf"):
        raise ArgumentError(f"`characterise(scale=...)` must be positive and finite, got {scale}")
    dut = DeviceUnderTest(device, scale, generator if generator is not None else torch.Generator().manual_seed(0))
    return _Inquiry(dut, budget).carry_out()


class _Inquiry:
    """The questions in their order, their answers, and the reason for an early end."""

    def __init__(self, dut: DeviceUnderTest, budget: Budget | None) -> None:
        self.dut, self.budget = dut, budget
        self.ledger = Ledger()
        self.findings: dict[str, Finding] = {}
        self.diagnoses: list[str] = []
        self.curves: dict[str, Any] = {}
        self.clock = Clock(dut.device)
        self.wiring: Wiring | None = None
        self.step: float | None = None
        self.taps: TapGains | None = None
        self.questions = QUESTIONS
        self.pulse: Pulse | None = None

    def carry_out(self) -> Characterisation:
        stopped = ""
        try:
            self._reserve_parking()
        except BudgetExhausted as error:
            return self._result(f"the budget ended before the first question: {error}")
        try:
            self._ask_all()
        except BudgetExhausted as error:
            stopped = f"the budget ended here: {error}"
        except ReadingError as error:
            stopped = f"its answers cannot be used: {error}"
            self.diagnoses.append(stopped)
        finally:
            self._park()
        return self._result(stopped or "not asked, since there is no answer to learn from")

    def _ask_all(self) -> None:
        dut = self.dut
        self._take(input_limits(dut))
        heard = self._run(lambda: signal(dut))
        self._take(*heard.findings, faults=heard.faults, curves=heard.curves)
        if heard.hopeless:
            return
        stable = self._run(lambda: stability(dut))
        self._take(*stable.findings, faults=stable.faults, curves=stable.curves)
        dut.drifts = self.findings["drift"].value != 0
        if stable.faults:
            return  # answers that depend on earlier queries have no information about θ
        faults = self._run(lambda: influence(dut))
        self.diagnoses += faults
        if any(fault.startswith(("stuck", "rounded")) for fault in faults):
            return
        driven = self._run(lambda: drive(dut))
        self._take(*driven.findings, faults=driven.faults)
        finding = self._run(lambda: period(dut))
        dut.period = finding.value if finding.known and isinstance(finding.value, float) else None
        self._take(finding)
        finding, affine, curve = self._run(lambda: linearity(dut))
        dut.linear = finding.known and finding.value is True and _vectors(dut)
        self._take(finding, affine, curves={"linearity": curve})
        finding, curve = self._run(lambda: response(dut))
        self._take(finding, curves={"response": curve})
        radian = step_size(self._declared(0.0).declaration) * 100
        self.step, finding, curve = self._run(lambda: useful_step(dut, radian))
        self._take(finding, curves={"step": curve})
        self.wiring = self._run(lambda: coupling(dut))
        self._take(self.wiring.finding, curves={"coupling": self.wiring.curves})
        self._take(self._harmonics())
        self._take(self._run(lambda: reciprocity(dut)))
        self.taps = self._run(lambda: tap_gains(dut))
        self._take(self.taps.finding)
        if dut.spec.has(Pulse):
            self._move_cells()

    def _move_cells(self) -> None:
        """Ask about the cells of tile 0, which takes the gradient where there are several."""
        self.questions = (*QUESTIONS[:-1], *PULSED, QUESTIONS[-1])
        if not self.dut.linear:
            self._take(*(unknown(name, "not asked: the device was not found linear") for name in PULSED))
            return
        array = Array.of(self.dut.spec, 0)
        seen = self._run(lambda: steps(array))
        self._take(seen.asymmetry, seen.variation)
        found = self._run(lambda: rest(array, seen))
        self._take(*found.findings)
        if (step := found.value("step size")) is not None:
            uneven = seen.asymmetry.value if isinstance(seen.asymmetry.value, float) else None
            low, high = min(seen.low, 0.0), max(seen.high, 0.0)
            self.pulse = Pulse(
                float(f"{step:.4g}"),
                float(f"{low:.4g}"),
                float(f"{high:.4g}"),
                self.dut.spec.capability(Pulse).longest,
                symmetric_point=_rounded(found.value("symmetric point")),
                asymmetry=_rounded(uneven),
                noise=_rounded(found.value("cycle variation")),
            )

    def _harmonics(self) -> Finding:
        """Asked only if a plan can use the answer: for few parameters, without linearity or coupling."""
        size = self.dut.spec.theta.size
        if self.dut.linear or coupling_of(self.findings["coupling"]) is not Coupling.NONE or size > SHIFTED:
            text = f"not asked: a plan uses them of at most {SHIFTED} parameters, where it knows of no coupling"
            return unknown("harmonics", text)
        return self._run(lambda: harmonics(self.dut))

    def _take(self, *findings: Finding, faults: list[str] | None = None, curves: dict[str, Any] | None = None) -> None:
        self.findings.update((finding.name, finding) for finding in findings)
        self.diagnoses += faults or []
        self.curves.update(curves or {})

    def _run(self, procedure: Callable[[], Procedure[T]]) -> T:
        with torch.no_grad():
            return run(procedure(), metered(self.clock, self.ledger, self.budget))

    def _reserve_parking(self) -> None:
        if self.budget is not None:
            spent = Count(Counter({Purpose.CALIBRATE: 1}), Counter({Purpose.CALIBRATE: 1}))
            self.budget.reserve(spent, self.dut.spec.costs(spent))

    def _park(self) -> None:
        """Restore the initial setting and ignore its reading; paid for in advance."""
        dut = self.dut
        with contextlib.suppress(ReadingError), torch.no_grad():
            run(ask(dut.query(dut.rows[:1], dut.home)), metered(self.clock, self.ledger))

    def _declared(self, noise: float) -> Declared:
        linear, one = self.findings.get("linear"), self.findings.get("harmonics")
        one_way = self.findings.get("reciprocal")
        return Declared(
            self.dut.device,
            harmonics=1 if one is not None and one.known and one.value == 1 else None,
            cost=self._cost(),
            linear=linear is not None and linear.known and bool(linear.value),
            coupling=coupling_of(self.findings.get("coupling")),
            noise=noise,
            period=self.dut.period,
            order=self.wiring.order if self.wiring is not None else None,
            without=(ReadBack,) if one_way is not None and one_way.value is False else (),
            capabilities=() if self.pulse is None else (self.pulse,),
        )

    def _cost(self) -> Cost | None:
        """Declare the measured cost if the device declares none; the time of a `Simulator` is not a laboratory's."""
        inner = unwrapped(self.dut.device)
        return None if self.dut.spec.cost.timed or isinstance(inner, Simulator) else self.clock.cost()

    def _result(self, why: str) -> Characterisation:
        self.findings["cost"] = cost(self.clock)
        for name in self.questions:
            self.findings.setdefault(name, unknown(name, why))
        noise = self.findings["noise"].value
        # Differences meet rounding as they meet noise: the declared noise, which sets their step, has both.
        rounding = self.dut.rounding / self.dut.size if self.dut.rounding else 0.0
        device = self._declared(float(f"{math.hypot(noise if isinstance(noise, float) else 0.0, rounding):.4g}"))
        return Characterisation(
            {name: self.findings[name] for name in self.questions},
            tuple(self.diagnoses),
            device,
            self.step if self.step is not None else step_size(device.declaration),
            self.ledger,
            self.curves,
            self.taps.gains if self.taps is not None else None,
        )


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.4g}")


def _vectors(dut: DeviceUnderTest) -> bool:
    return dut.spec.of_vectors
