"""How weights fade without pulses."""

from __future__ import annotations

import math
from itertools import pairwise

from blackprop.characterisation._findings import Finding, sure, unknown
from blackprop.characterisation.pulsed._array import Array
from blackprop.characterisation.pulsed._steps import CHECKED, Steps
from blackprop.core._procedure import Procedure

IDLE = 32  # queries without a pulse
SIGMAS = 4.0
ALIKE = 0.25  # between the decays of two waits


def retention(array: Array, seen: Steps) -> Procedure[Finding]:
    """Read weights near a bound, before and after queries without a pulse, and after as many again."""
    name = "retention"
    yield from array.send(1.0, seen.pulses)
    weights = []
    for _ in range(3):
        read = yield from array.read(2)
        weights.append(read.double())
        if len(weights) < 3:
            yield from array.wait(IDLE)
    means = [each.mean(0) for each in weights]
    noise = float((weights[0][0] - weights[0][1]).std()) / 2
    size = float(means[0].square().sum().sqrt())
    error = SIGMAS * math.sqrt(2) * noise / size + 1e-6
    falls = [1 - float((a * b).sum() / a.square().sum()) for a, b in pairwise(means)]
    if falls[0] <= error:
        text = f"no decay in {IDLE} queries without a pulse: a lifetime of at least {IDLE / error:.2g} queries"
        return Finding(name, None, True, text, sure(min(float(means[0].numel()), CHECKED)))
    lifetime = -IDLE / math.log1p(-min(falls[0], 1 - 1e-9))
    text = f"weights fall by {falls[0]:.3g} in {IDLE} queries without a pulse, and by {falls[1]:.3g} in as many again"
    if abs(falls[1] - falls[0]) > ALIKE * falls[0] + error:
        return unknown(name, f"{text}: this is no exponential decay")
    doubt = lifetime * (abs(falls[1] - falls[0]) + error / SIGMAS) / falls[0]
    return Finding(name, lifetime, True, f"{text}; the lifetime in queries", sure(CHECKED), doubt)
