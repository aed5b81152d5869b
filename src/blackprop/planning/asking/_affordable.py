"""The choice once a device is known: the best method that has enough steps within its allowance."""

from __future__ import annotations

import math
from collections.abc import Sequence

from blackprop.core._declaration import Declaration
from blackprop.errors import BudgetExhausted
from blackprop.planning._candidates import Candidate, Quality
from blackprop.planning._choice import pick
from blackprop.planning._methods import FRESH, each, held_subspace, is_credited
from blackprop.planning._price import Held, totals
from blackprop.planning._workload import Workload
from blackprop.planning.inquiry._finding import Family, InquiryResult

FEWEST, CREDITED = 300, 16  # steps of a training by perturbations of the whole, and by those credited by output
RECALLED = 4  # steps of perturbations that are remembered
SHARE = 0.5  # of the parameters that an output answers to: their directions in all


def held(finding: InquiryResult, workload: Workload) -> tuple[Candidate, ...]:
    """Return the candidate for a matrix in which parameters do not belong to elements or rows, within an allowance.
    Without an allowance, perturbations at every step train better.
    """
    length = finding.length
    if finding.family is not Family.LINEAR or length is None or not workload.limits:
        return ()
    return (
        Candidate(
            "held-subspace",
            Quality.HELD,
            lambda spec: spec.linear,
            lambda spec: held_subspace(spec, Workload(), length),
            lambda spec: (
                f"derivatives hold over {length:.2g}: measured along {FRESH} random directions a step, and kept as far"
            ),
            divide=lambda spec, workload: held_subspace(spec, workload, length),
        ),
    )


def fallback(spec: Declaration, candidates: Sequence[Candidate], workload: Workload) -> Candidate:
    """The best of the table that has enough steps within the limits of the workload.

    Perturbations that are not remembered need 300 steps, 16 where each output is credited with its own parameters or
    they span all parameters, and in all a direction for every second parameter that an output answers to. Those that
    are remembered need 4 steps. With fewer, a device that stays as it is does as well, and its rows serve the layers
    around it. Beside a layer whose gradients cost no query, perturbations of a device as a whole do not pay: they take
    the steps of that layer.
    """
    if not workload.limits:
        return pick(spec, candidates, workload)

    if min(workload.limits.values()) <= 0:
        return min(candidates, key=lambda candidate: candidate.quality)

    def enough(candidate: Candidate) -> bool:
        asks = Quality.FROZEN < candidate.quality <= Quality.HELD or candidate.quality == Quality.SPANNED
        if not asks or candidate.why_not(spec):
            return True
        if workload.beside_exact and not is_credited(spec) and candidate.quality != Quality.SPANNED:
            return False
        if candidate.quality == Quality.SINGLE:
            return False
        method = candidate.method(spec, workload)
        count = getattr(method.estimator, "count", 1)
        step = totals(candidate.price(method, Held(spec, None), workload.batch_size).step)
        steps = min(limit / step[name] if step[name] else math.inf for name, limit in workload.limits.items())
        if candidate.quality in (Quality.REMEMBERED, Quality.HELD):
            return steps >= RECALLED
        exact = is_credited(spec) or candidate.quality == Quality.SPANNED
        return steps >= (CREDITED if exact else FEWEST) and count * steps >= SHARE * each(spec)

    fitting = [candidate for candidate in candidates if enough(candidate)]
    try:
        return pick(spec, fitting, workload)
    except BudgetExhausted:  # then the training will end as soon as it can go no further
        return min(fitting, key=lambda candidate: candidate.quality)
