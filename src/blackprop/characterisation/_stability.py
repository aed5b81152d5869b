"""Whether an answer stays the same: just after programming, after other queries, and over many programmings."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from blackprop.characterisation._device_under_test import ROWS, TOLERANCE, DeviceUnderTest, rms
from blackprop.characterisation._findings import Finding, sure, unknown
from blackprop.core._procedure import Procedure
from blackprop.core._query import Purpose, Query

READS = 6  # one after the other, after each programming
PATHS = ((0,), (1,), (0, 1), (1, 0))  # by which of two other settings it comes back
ROUNDS = 3 * len(PATHS)
STEPS = 2.5  # programmings a round, on the mean


@dataclass
class Stability:
    findings: list[Finding]
    faults: list[str] = field(default_factory=list)
    curves: dict[str, Any] = field(default_factory=dict)


def stability(dut: DeviceUnderTest) -> Procedure[Stability]:
    """Go away and back, by way of one of two other settings or of both, each time with six consecutive readings.

    *Settling* is the difference of the first reading from the last three, *history* the difference of answers after
    different ways, and *drift* the growth of the difference of two answers with the number of programmings between
    them, `V(l) = 2σ² + l q`.
    """
    away = [dut.anywhere(), dut.anywhere()]
    rows = dut.rows.unflatten(1, dut.spec.in_shape)
    queries, home = [], []
    for k in range(ROUNDS):
        queries += [Query(rows, away[stop], Purpose.CALIBRATE) for stop in PATHS[k % len(PATHS)]]
        home += range(len(queries), len(queries) + READS)
        queries += [Query(rows, dut.base, Purpose.CALIBRATE)] * READS
    found = yield queries
    answers = torch.stack([found[k].flatten(1) for k in home]).unflatten(0, (ROUNDS, READS))
    reverse = dut.rows.flip(0)
    both = yield [dut.query(x, dut.base) for _ in range(4) for x in (dut.rows, reverse)]
    orders = [(there.flatten(1), back.flatten(1)) for there, back in zip(both[::2], both[1::2], strict=True)]
    found = Stability([])
    found.curves["settling"] = {
        "read": list(range(1, READS + 1)),
        "difference": [rms(answers[:, k] - answers[:, -3:].mean(1)) / dut.size for k in range(READS)],
    }
    found.findings.append(_settling(dut, answers, found))
    settled = answers[:, -3:].mean(1)  # (rounds, rows, d_out)
    found.findings.append(_history(dut, answers[:, 0], settled, orders, found))
    found.findings.append(_drift(dut, settled, found))
    return found


def _settling(dut: DeviceUnderTest, answers: Tensor, found: Stability) -> Finding:
    early = (answers[:, 0] - answers[:, -3:].mean(1)).unflatten(0, (-1, len(PATHS))).mean(0)
    late = answers[:, -1] - answers[:, -2]
    # The mean over the rounds of one way reduces noise by the root of their number, and settling not at all.
    allowed = 1.4 * rms(late) / math.sqrt(ROUNDS // len(PATHS)) * (1 + 4 / math.sqrt(early.numel())) + _little(dut)
    size, settles = rms(early) / dut.size, rms(early) > allowed
    if not settles:
        text = f"the reading just after programming is like the later ones, within {allowed / dut.size:.1g}"
        return Finding("settling", 0.0, True, text, sure(ROUNDS * ROWS))
    differences = [rms((answers[:, k] - answers[:, -1]).mean(0)) / dut.size for k in range(READS)]
    text = f"just after programming it is off by {size:.2g} of the output; reading by reading by " + ", ".join(
        f"{difference:.1g}" for difference in differences[:-1]
    )
    found.faults.append(f"slow to settle: {text}")
    return Finding("settling", size, True, text, sure(ROUNDS * ROWS))


def _history(
    dut: DeviceUnderTest, first: Tensor, settled: Tensor, orders: list[tuple[Tensor, Tensor]], found: Stability
) -> Finding:
    text = ""
    for answers in (settled, first):
        after_a, after_b, after_ab, after_ba = answers.unflatten(0, (-1, len(PATHS))).unbind(1)
        last = torch.cat((after_a - after_b, after_ba - after_ab))
        for pairs, which in ((last, ""), (after_ab - after_b, " but one"), (after_ba - after_a, " but one")):
            if not text and _consistent(dut, pairs):
                size = rms(pairs.mean(0)) / dut.size
                text = f"the answer depends on the setting before{which}, by {size:.2g} of the output"
    rows = torch.stack([there - back.flip(0) for there, back in orders])
    if _consistent(dut, rows):
        text = f"the answer depends on the rows before, by {rms(rows.mean(0)) / dut.size:.2g} of the output"
    if not text:
        return Finding("history", False, True, "neither the setting nor the rows before matter", sure(ROUNDS * ROWS))
    if not found.faults:
        found.faults.append(f"remembers: {text}")
    return Finding("history", True, True, text, sure(ROUNDS * ROWS))


def _consistent(dut: DeviceUnderTest, pairs: Tensor) -> bool:
    """Whether the mean of the differences (n, rows, d_out) exceeds their scatter.

    Those of a drifting device have at most as many independent parts as it has parameters.
    """
    n = len(pairs)
    parts = min(pairs[0].numel(), dut.spec.theta.size)
    scatter = rms(pairs - pairs.mean(0)) * math.sqrt(n / (n - 1))
    excess = n * rms(pairs.mean(0)) ** 2 / max(scatter**2, 1e-300)
    return rms(pairs.mean(0)) > _little(dut) and excess > 1 + 40 / math.sqrt(parts) * (1 + 4 / n)


def _drift(dut: DeviceUnderTest, settled: Tensor, found: Stability) -> Finding:
    """Fit the drift to all pairs of answers."""
    lags = torch.arange(1, ROUNDS - 1)
    variogram = torch.tensor(
        [float((settled[lag:] - settled[:-lag]).square().mean()) for lag in lags.tolist()], dtype=torch.float64
    )
    programmings = STEPS * lags.double()
    slope = float(
        ((programmings - programmings.mean()) * variogram).sum() / (programmings - programmings.mean()).square().sum()
    )
    found.curves["drift"] = {
        "programmings": programmings.tolist(),
        "difference": [math.sqrt(v) / dut.size for v in variogram.tolist()],
    }
    grown, floor = float(variogram[-1]), float(variogram[0])
    still = 2 * dut.noise**2 / 3 * (1 + 8 / math.sqrt(settled[0].numel())) + _little(dut) ** 2
    if floor <= 1.5 * still and grown <= 2 * still:
        text = f"{ROUNDS} answers over {STEPS * ROUNDS:.0f} programmings agree within {math.sqrt(grown) / dut.size:.1g}"
        return Finding("drift", 0.0, True, text, sure(ROUNDS * ROWS))
    if slope <= 0 or grown < 2 * floor:
        text = f"answers differ by {math.sqrt(grown) / dut.size:.2g} of the output from programming to programming"
        return unknown("drift", f"{text}, and hardly more after many")
    rate = math.sqrt(slope) / dut.size
    text = f"answers {int(programmings[-1])} programmings apart differ by {math.sqrt(grown) / dut.size:.2g}"
    return Finding("drift", rate, True, f"{text} of the output; per root programming", sure(ROUNDS * ROWS), rate / 2)


def _little(dut: DeviceUnderTest) -> float:
    return TOLERANCE * 3 * dut.size
