"""Make the methods of the table: estimator and surrogate, with settings that suit a declaration."""

from __future__ import annotations

import math
from collections import Counter

import torch

from blackprop.core._declaration import Coupling, Declaration
from blackprop.core._query import Count, Purpose
from blackprop.directions import Directions, Orthogonal, Rademacher
from blackprop.estimators import (
    ByOutput,
    DirectionalMemory,
    FromSurrogate,
    HeldSubspace,
    ParameterShift,
    ProbeContraction,
    RandomDirections,
    Still,
    Whole,
)
from blackprop.planning._workload import Workload
from blackprop.presets import Method
from blackprop.surrogates import CalibratedResponse, Frozen, Streaming

MEMORY_BYTES = 2**28  # for remembered perturbations, unless told otherwise
FRESH = 4  # new directions a step of a held subspace
PACE = 5 / 3  # of its steps, in a training of 220 programmings
LEAST = 0.02  # of a correlation length: the step of differences of exact readings
PROBES = 12  # rows in place of the batch, on a linear device of vectors


def is_matrix(spec: Declaration) -> bool:
    """Whether the device is declared a matrix: linear, and rows and outputs are vectors."""
    return spec.linear and spec.of_vectors


def is_credited(spec: Declaration) -> bool:
    """Whether each output is declared to have a block of parameters of its own, all equally long."""
    return spec.coupling is not Coupling.NONE and spec.theta.size % spec.d_out == 0


def each(spec: Declaration) -> int:
    """How many parameters an output answers to."""
    return spec.theta.size // spec.d_out if is_credited(spec) else spec.theta.size


def calibrated(settings: int | None) -> Method:
    """Both gradients from response curves, measured at `settings` settings; None, at as many as explain the device."""
    surrogate = CalibratedResponse(settings)
    return Method(FromSurrogate(surrogate), surrogate)


def shifted(spec: Declaration) -> Method:
    """The exact gradient of a sinusoidal device, from two shifts of each parameter."""
    return Method(ParameterShift(contraction=_contraction(spec)), fitted(spec))


def remembered(spec: Declaration, credited: bool = False, **settings: int) -> DirectionalMemory:
    """A memory that suits a linear device: 8 new directions a step, or, where outputs are credited with their own
    parameters and a few hundred directions know all, one for every 256 of these, after 256 at the start.

    `settings` are those of `DirectionalMemory` that are to be others.
    """
    k = min(settings.get("rank", 32), spec.d_in)
    size = max(64, min(4096, MEMORY_BYTES // (4 * spec.d_out * k)))
    if not credited:
        return DirectionalMemory(**{"count": 8, "size": size, "step": step_size(spec), **settings})
    count = min(8, -(-spec.theta.size // spec.d_out // 256))
    chosen = {"count": count, "size": size, "start": 256, "step": step_size(spec), **settings}
    return DirectionalMemory(**chosen, credit=ByOutput(spec.d_out))


def held_subspace(spec: Declaration, workload: Workload, length: float) -> Method:
    """4 new directions a step, each counted as far as its derivative holds, at a pace of `5/3 √(220/T)`, T the
    programmings. Rows that are left over make the measurements more complete.

    Differences are over `ℓ √(2 noise)`: there the error of the noise, `noise · ℓ/μ`, is that of the curvature, `μ/2ℓ`.
    """
    rank, each = min(32, spec.d_in), FRESH + 1
    steps = workload.steps_of(workload.batch_size + each * rank, each)
    if workload.rows is not None:
        rank = max(rank, min(spec.d_in, (int(workload.rows / steps) - workload.batch_size) // each))
    room = max(64, min(4096, MEMORY_BYTES // (4 * spec.d_out * rank)))
    pace = PACE * math.sqrt(220 / (steps * each))
    step = min(2 * step_size(spec), length * max(LEAST, math.sqrt(2 * spec.noise)))
    held = HeldSubspace(min(room, steps * FRESH), steps, rank, step, length=length, fresh=FRESH, pace=pace)
    return Method(held, fitted(spec))


def perturbed(spec: Declaration, count: int, directions: Directions | None = None) -> Method:
    """Forward differences along `count` fresh directions a step."""
    estimator = RandomDirections(
        count,
        step_size(spec),
        directions if directions is not None else Rademacher(),
        contraction=_contraction(spec),
        credit=ByOutput(spec.d_out) if is_credited(spec) else Whole(),
    )
    return Method(estimator, fitted(spec))


def complete_set(spec: Declaration) -> Method:
    """As many orthogonal directions a step as there are parameters that an output answers to, or, where readings are
    noisy, several such sets of at most 16 together: together they span the gradient.
    """
    size = each(spec)
    sets = max(1, 16 // size) if spec.noise else 1
    return perturbed(spec, sets * size, Orthogonal(spec.d_out if is_credited(spec) else 1))


def frozen(spec: Declaration) -> Method:
    """No gradient for θ; that of the input from the matrix, read once, or from a local linear fit."""
    return Method(Still(), Frozen() if spec.linear else fitted(spec))


def frozen_within(spec: Declaration, workload: Workload) -> Method:
    """`frozen`, whose matrix is read where that takes at most half of each limit, and is else fitted to the rows of
    training.
    """
    read = Count(Counter({Purpose.CALIBRATE: spec.d_in}), Counter({Purpose.CALIBRATE: 1}))
    needed: dict[str, float] = {"rows": spec.d_in, "programmings": 1, **spec.known_costs(read)}
    if all(2 * needed.get(name, 0) <= limit > 0 for name, limit in workload.limits.items()):
        return frozen(spec)
    return Method(Still(), Streaming(bias=not spec.linear, exact_start=False))


def fitted(spec: Declaration) -> Streaming:
    """The input gradient of a matrix, or of a local linear fit, that follows the rows of training."""
    return Streaming() if spec.linear else Streaming(bias=True, exact_start=False)


def step_size(spec: Declaration) -> float:
    """A step for differences, `max(1/100, 0.7 √noise)` radians: small where readings are exact, and where they are not
    the balance of noise, which falls as 1/step, and curvature, which grows with it.

    2π radians are a period, or else the width of the limits; where there is neither, a radian is ten times the spread
    that θ starts with.
    """
    return radian(spec) * max(0.01, 0.7 * math.sqrt(spec.noise))


def radian(spec: Declaration) -> float:
    """A radian in θ's units, as in `step_size`."""
    if spec.theta.period is not None:
        return spec.theta.period / (2 * math.pi)
    theta = spec.theta.draw(torch.Generator().manual_seed(0))
    low, high = spec.theta.bounds(theta)
    width = float((high - low).min())
    if math.isfinite(width):
        return width / (2 * math.pi)
    spread = float(theta.std()) if theta.numel() > 1 else 0.0
    return 10 * (spread or float(theta.abs().max()) or 1.0)


def _contraction(spec: Declaration) -> ProbeContraction | None:
    return ProbeContraction(PROBES) if is_matrix(spec) else None
