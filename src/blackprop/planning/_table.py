"""The whole table: the candidates for a declaration, and those that ask the device first."""

from __future__ import annotations

import math

from blackprop.core._declaration import Coupling, Declaration
from blackprop.core._ledger import Ledger
from blackprop.core._metered import Measurable
from blackprop.planning._candidates import DECLARED, SMALL, Candidate, Quality
from blackprop.planning._methods import is_credited
from blackprop.planning._physics import CHIP, chip_price, chip_queries, is_chip
from blackprop.planning._price import Price, dry_price, totals
from blackprop.planning._pulses import PULSED
from blackprop.planning._two_way import SUBSPACE, TWO_WAY
from blackprop.planning._workload import Workload
from blackprop.planning.asking._affordable import fallback
from blackprop.planning.asking._ask_first import NAME, AskFirst
from blackprop.planning.asking._asked import Asked
from blackprop.planning.asking._fits import CHIP_PART
from blackprop.planning.inquiry._cost import most
from blackprop.planning.inquiry._designs import calibration
from blackprop.presets import Method


def _opaque(spec: Declaration) -> bool:
    return spec.coupling is Coupling.NONE and _large(spec)


def _large(spec: Declaration) -> bool:
    return spec.of_vectors and spec.theta.size > SMALL


def _unknown(spec: Declaration) -> bool:
    """Whether readings may tell more than the declaration: the places of parameters, elements in place of rows, a
    matrix behind a dark level, or the noise, which decides the step of every perturbation.
    """
    if is_credited(spec):
        elements = spec.d_in * spec.d_out == spec.theta.size
        return _large(spec) and spec.coupling is Coupling.ROW and (elements or not spec.linear)
    return _large(spec) or (spec.coupling is Coupling.NONE and not spec.noise)


def _method(spec: Declaration, workload: Workload | None = None) -> Method:
    del spec
    surrogate = AskFirst(DECLARED, workload)
    return Method(Asked(surrogate), surrogate)


def _affords(spec: Declaration, workload: Workload) -> bool:
    """Whether the allowance suffices to calibrate a design that such a device may have."""
    cost, limits = totals(calibration(spec)), workload.limits
    return all(cost[name] <= CHIP_PART * limits.get(name, math.inf) for name in ("rows", "programmings"))


def _price(method: Method, device: Measurable, batch_size: int) -> Price:
    """The most: the whole inquiry, the calibration of a design that it may find, and then the method for a device of
    which it finds no more.
    """
    spec, surrogate = device.declaration, method.surrogate
    workload = surrogate.workload if isinstance(surrogate, AskFirst) else Workload(batch_size)
    then = dry_price(fallback(spec, DECLARED, workload).method(spec, workload), device, batch_size)
    asked = Ledger.sum([most(spec), calibration(spec)]) if _affords(spec, workload) else most(spec)
    asked.costs = spec.costs(asked.spent)
    return Price(Ledger.sum([then.first, asked]), then.step)


def _reason(spec: Declaration) -> str:
    asked = most(spec)
    coupling = "no" if spec.coupling is Coupling.NONE else spec.coupling.value
    linear = "declared linear" if spec.linear else "not declared linear"
    if not spec.of_vectors:
        return (
            f"no coupling declared, {linear}: the device is asked for its noise first, by {asked.total_rows} rows, and "
            "the best of the table is then taken"
        )
    chip = calibration(spec)
    more = f"; {chip.total_programmings} programmings more calibrate it, if it is a mesh" if chip.total_rows else ""
    return (
        f"{coupling} coupling declared, {linear}: the device is asked first, by at most {asked.total_programmings} "
        f"programmings and {asked.total_rows:,} rows{more}, and the best of the table for its family is then taken"
    )


def _chip_reason(spec: Declaration) -> str:
    asked = chip_queries(spec)
    return (
        f"a declared mesh design: calibrated in closed form by {asked.total_programmings} programmings and "
        f"{asked.total_rows:,} rows once, gradients then cost no query; where its check fails, the device is asked"
    )


CANDIDATES: tuple[Candidate, ...] = (
    *DECLARED[:2],
    *TWO_WAY,
    Candidate(
        CHIP,
        Quality.EXACT,
        lambda spec: _opaque(spec) and spec.theta.size > SMALL and is_chip(spec),
        _method,
        _chip_reason,
        chip_price,
        needs="a declared chip whose design, readout and outputs the closed-form calibration serves",
        divide=_method,
    ),
    *DECLARED[2:-5],
    SUBSPACE,
    Candidate(
        NAME,
        Quality.ASKED,
        _unknown,
        _method,
        _reason,
        _price,
        needs=f"a device of unknown noise, or of vectors and over {SMALL} parameters, that declares little",
        divide=_method,
    ),
    *PULSED,
    *DECLARED[-5:],
)
