"""The loop over the steps of spiking neurons, compiled by Numba. Imported by `_neurons` alone, once it is needed.

Few inputs spike in a step: the weights of those alone are added, in place of a product with all counts. Arithmetic is
float64 without reordering, so that a spike falls into the step that the plain path finds.
"""

from __future__ import annotations

from typing import Any

import numba  # pyright: ignore[reportMissingImports]
import numpy as np

OPTIONS: dict[str, Any] = {"error_model": "numpy", "nogil": True, "cache": True}


@numba.njit(**OPTIONS)
def settle(synapse, current, rest, spikes, parts, numbers, resting):
    """One step of the membranes under the currents `synapse` (2 d_out,); adds to the `spikes` (d_out,)."""
    feedback, onset, width, dark, _ = numbers
    leak, gain, ratio, pace, threshold = parts
    for j in range(current.size):
        entering = max(synapse[j] - synapse[current.size + j], dark)
        driven, now = ratio[j] * (entering - leak[j]), current[j]
        positive = feedback / leak[j] / (1.0 + np.exp(-(now - onset) / width))
        change = pace[j] * (driven + positive * (now + gain[j]) - now) / (1.0 + gain[j] / now)
        if rest[j] > 0:
            now = dark
            rest[j] -= 1
        else:
            now = max(now + change, dark)
        if now >= threshold[j]:
            spikes[j] += 1
            now, rest[j] = dark, resting
        current[j] = now


@numba.njit(**OPTIONS)
def fire(x, trains, phases, per_step, strength, kept, parts, numbers, resting, out):
    """Count the spikes (S, rows, d_out) of neurons, into `out`.

    - `x` (1 or S, rows, d_in): rates; or counts (1 or S, rows, steps, d_in) as `trains`, of which the other is empty.
    - `phases` (d_in,), `per_step`: a train of rate r has spiked ⌊r · per_step · k + phase⌋ times after k steps.
    - `strength` (S, d_in, 2 d_out): the jumps of the excitatory and the inhibitory currents by a spike.
    - `kept` (2 d_out,): the part of these currents that a step leaves.
    - `parts` (5, d_out): leak, gain, gain / leak, pace and threshold of the membranes.
    - `numbers` (5,): feedback, onset, width, the dark current and the number of steps.
    """
    dark, steps = numbers[3], int(numbers[4])
    inputs, neurons, rows, given = strength.shape[1], out.shape[2], out.shape[1], trains.size > 0
    synapse, cycles, before = np.empty(2 * neurons), np.empty(inputs), np.empty(inputs)
    current, rest = np.empty(neurons), np.empty(neurons, np.int64)
    for s in range(out.shape[0]):
        weights = strength[s]
        for r in range(rows):
            spikes = out[s, r]
            synapse[:], current[:], rest[:], spikes[:] = 0, dark, 0, 0
            if not given:
                rate = x[s if x.shape[0] > 1 else 0, r]
                for i in range(inputs):
                    cycles[i], before[i] = rate[i] * per_step, np.floor(phases[i])
            for k in range(steps):
                for j in range(2 * neurons):
                    synapse[j] *= kept[j]
                for i in range(inputs):
                    if given:
                        count = trains[s if trains.shape[0] > 1 else 0, r, k, i]
                    else:
                        after = np.floor(cycles[i] * (k + 1.0) + phases[i])
                        count, before[i] = after - before[i], after
                    if count != 0:
                        jumps = weights[i]
                        for j in range(2 * neurons):
                            synapse[j] += count * jumps[j]
                settle(synapse, current, rest, spikes, parts, numbers, resting)
