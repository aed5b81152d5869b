"""The whole table: what suits a declaration, and asking first where there is none."""

from __future__ import annotations

from blackprop.core._declaration import Coupling, Declaration
from blackprop.core._ledger import Ledger
from blackprop.core._metered import Measurable
from blackprop.planning._ask_first import NAME, Asked, AskFirst, fallback
from blackprop.planning._candidates import DECLARED, SMALL, Candidate, Quality
from blackprop.planning._inquiry import most
from blackprop.planning._price import Price, dry_price
from blackprop.planning._workload import Workload
from blackprop.presets import Method


def _undeclared(spec: Declaration) -> bool:
    vectors = len(spec.in_shape) == len(spec.out_shape) == 1
    return vectors and not spec.linear and spec.coupling is Coupling.NONE and spec.theta.size > SMALL


def _method(spec: Declaration, workload: Workload | None = None) -> Method:
    del spec
    surrogate = AskFirst(DECLARED, workload)
    return Method(Asked(surrogate), surrogate)


def _price(method: Method, device: Measurable, batch_size: int) -> Price:
    """The most: all that may be asked, and then what is done where that tells nothing."""
    spec, surrogate = device.declaration, method.surrogate
    workload = surrogate.workload if isinstance(surrogate, AskFirst) else Workload(batch_size)
    then = dry_price(fallback(spec, DECLARED, workload).method(spec, workload), device, batch_size)
    asked = most(spec)
    asked.lab_seconds = asked.total_rows * spec.cost.row + asked.total_programmings * spec.cost.programming
    return Price(Ledger.sum([then.first, asked]), then.step)


def _reason(spec: Declaration) -> str:
    asked = most(spec)
    return (
        f"no coupling declared, not declared linear: the device is asked first, by at most "
        f"{asked.total_programmings} programmings and {asked.total_rows:,} rows, and the best of the table for what it "
        "is then taken"
    )


CANDIDATES: tuple[Candidate, ...] = (
    *DECLARED[:-5],
    Candidate(
        NAME,
        Quality.ASKED,
        _undeclared,
        _method,
        _reason,
        _price,
        needs=f"a device of vectors that declares neither linearity nor coupling, of more than {SMALL} parameters",
        divide=_method,
    ),
    *DECLARED[-5:],
)
