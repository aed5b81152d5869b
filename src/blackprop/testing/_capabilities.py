"""Whether a device fulfils the declarations of its capabilities."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from blackprop.core._procedure import ask
from blackprop.core._query import Purpose, Query
from blackprop.core._round import Round
from blackprop.core.capabilities._capability import Capability
from blackprop.core.capabilities._cells import Cells
from blackprop.core.capabilities._fields import Fields
from blackprop.core.capabilities._gains import Gains
from blackprop.core.capabilities._pulse import Pulse
from blackprop.core.capabilities._read_back import ReadBack, ReadBackField
from blackprop.core.capabilities._taps import Taps
from blackprop.errors import IncompatibleError
from blackprop.estimators import Estimator, ForwardMode, InSitu, Outer, ScatteringBackprop, Subspace
from blackprop.testing._bench import normal
from blackprop.testing._probe import SIGMAS, Probe

REPEATS = 16  # readings of a capability with noise of its own
DIRECTIONS = 16  # in which the gradient of the taps is compared
REACH = 0.1  # the length of a step in such a direction: rad, or in units of the parameters' size
APART = 0.3  # largest error of that gradient: unequal gains and losses of a chip as built stay below it
SYMMETRIC = 0.05  # largest error of the gradient from fields, beyond the declared asymmetry: the curvature over a step


def check_capabilities(probe: Probe) -> None:
    """Check the declared capabilities one after the other; a device without any passes."""
    for capability in probe.spec.capabilities:
        _check(probe, capability)


def _check(probe: Probe, capability: Capability) -> None:
    """Check one capability.

    Rows of its shape must be answered by finite readings of its shape and the rows' dtype. In a round with ordinary
    readings at the same setting it must cost no further programming. It is counted by its name and, unless it writes,
    changes no ordinary reading and repeats its own.
    """
    spec, claim = probe.spec, f"capability {capability.name}"
    rows = capability_rows(probe, capability)
    queries = [
        Query(probe.x, probe.theta, Purpose.CALIBRATE),
        Query(rows, probe.theta, Purpose.CALIBRATE, type(capability)),
        Query(probe.x, probe.theta, Purpose.CALIBRATE),
    ]
    spent = Round.of(queries, spec).spending(None, spec.rows_each, spec)
    probe.bench.require(
        spent.programmings.total() == 1 and spent.actions[capability.name] == capability.amount(rows),
        claim,
        f"{spent.programmings.total()} programmings, {dict(spent.actions)}",
        f"1 programming, {capability.amount(rows)} units",
    )
    (reading,) = _readings(probe, claim, queries[1:2])
    wanted = (len(rows), *capability.reading_shape(spec))
    probe.bench.require(tuple(reading.shape) == wanted, claim, str(tuple(reading.shape)), str(wanted))
    if capability.writes or capability.lasting:
        probe.bench.note(claim, f"{wanted}, {'writes' if capability.writes else 'lasts'}")
        return
    text = probe.alike(
        claim,
        lambda: _readings(probe, claim, queries)[2],
        lambda: _readings(probe, claim, queries[:1])[0],
        "an ordinary reading after it",
    )
    if reading.numel() and getattr(capability, "noise", 0.0):
        text = _alike_within_noise(probe, claim, queries, getattr(capability, "noise", 0.0))
    elif reading.numel():
        text = probe.alike(
            claim,
            lambda: _readings(probe, claim, queries)[1],
            lambda: _readings(probe, claim, queries[1:2])[0],
            "its reading in a round with others",
        )
    probe.bench.note(claim, text)


def _alike_within_noise(probe: Probe, claim: str, queries: list[Query], noise: float) -> str:
    """The mean reading with others and alone, within the declared relative noise and the noise that is seen."""
    both = [
        torch.stack([_readings(probe, claim, asked)[place] for _ in range(REPEATS)])
        for asked, place in ((queries, 1), (queries[1:2], 0))
    ]
    among, alone = (some.mean(0) for some in both)
    seen = float(both[1].std(0).square().mean().sqrt())
    allowed = SIGMAS * (2 / REPEATS) ** 0.5 * (noise * alone.abs() + seen) + probe.tolerance * alone.abs().max()
    beyond = float(((among - alone).abs() / allowed).max())
    probe.bench.require(beyond <= 1, claim, f"its reading in a round differs by {beyond:.3g} of the noise", "alike")
    return f"within {beyond:.2g} of the noise"


def capability_rows(probe: Probe, capability: Capability) -> Tensor:
    """Return random rows for the capability, as many as the probe has."""
    if capability.row_shape(probe.spec) == probe.spec.in_shape:
        return probe.x
    x = normal((len(probe.x), *capability.row_shape(probe.spec)), torch.Generator().manual_seed(0))
    if isinstance(capability, Pulse):
        return capability.trains(probe.x.flatten(1), capability.granularity * x[:, : probe.spec.d_out].to(probe.x))
    return (x / x.abs().max()).to(probe.x)


def _readings(probe: Probe, claim: str, queries: list[Query]) -> list[Tensor]:
    return probe.bench.run(claim, ask(*queries), probe.device)


def check_reciprocity(probe: Probe) -> None:
    """`⟨g, A x⟩ = ⟨Aᵀ g, x⟩` of a device that declares `ReadBack`, within its noise, at two settings."""
    if not probe.spec.has(ReadBack):
        return
    claim, x = "reciprocal", probe.x
    g = capability_rows(probe, probe.spec.capability(ReadBack))
    for theta in (probe.theta, probe.other):
        queries = [
            Query(x, theta, Purpose.CALIBRATE),
            Query(g, theta, Purpose.CALIBRATE, ReadBack),
        ]

        def both(queries: list[Query] = queries) -> list[Tensor]:
            y, z = _readings(probe, claim, queries)
            return [g.flatten(1) @ y.flatten(1).mT, z.flatten(1) @ x.flatten(1).mT]

        pairs = [both() for _ in range(probe.repeats)]
        ahead, back = (torch.stack(side).mean(0) for side in zip(*pairs, strict=True))
        apart, size = float((ahead - back).norm()), float(ahead.norm())
        allowed = 10 * probe.tolerance * size + SIGMAS * probe.spec.noise * size / probe.repeats**0.5
        allowed += SIGMAS * probe.sigma * float(g.norm()) / probe.repeats**0.5
        probe.bench.require(
            apart <= allowed,
            claim,
            f"⟨g, A x⟩ and ⟨Aᵀ g, x⟩ differ by {apart / size if size else apart:.2g} of their size",
            "they are equal: something along the way is not reciprocal, or a port is scaled in one direction only",
        )
    probe.bench.note(claim, "⟨g, A x⟩ = ⟨Aᵀ g, x⟩")


def check_taps(probe: Probe) -> None:
    """The gradient from `Taps` is the slope of `⟨g, f(x; θ)⟩`, in random directions and within the noise."""
    if not (probe.spec.has(Taps) and probe.spec.has(ReadBackField)):
        return
    claim, estimator = "taps give the gradient", InSitu(pairs=None)
    _require_served(probe, claim, estimator, "taps for every parameter of a linear device")
    g = capability_rows(probe, probe.spec.capability(ReadBackField))
    found = _estimate(probe, claim, estimator, probe.x, g)
    wrong = "the slope of the readings: a tap is missing, in another place, or of another sign"
    _check_slopes(probe, claim, found, g, APART * float(found.norm()), wrong)


def check_cells(probe: Probe) -> None:
    """The outer product is the slope of `⟨g, f(x; θ)⟩`, within the noise and a part that wires and stuck cells take."""
    if not probe.spec.has(Cells):
        return
    claim, estimator = "cells give the gradient", Outer()
    _require_served(probe, claim, estimator, "a linear device with a parameter for each cell")
    g = capability_rows(probe, ReadBack())
    found = _estimate(probe, claim, estimator, probe.x, g)
    wrong = "the slope of the readings: the slope of a cell is another one, or parameters lie in another order"
    _check_slopes(probe, claim, found, g, APART * float(found.norm()), wrong)


def check_gains(probe: Probe) -> None:
    """The gradient from `Gains` is the slope of `⟨g, f(x; θ)⟩` along the gains, within the noise."""
    if not probe.spec.has(Gains):
        return
    claim, estimator = "gains give the gradient", Subspace()
    _require_served(probe, claim, estimator, "gains among the parameters of a linear device")
    g = probe.read(probe.x.flip(0), probe.other, claim)  # of the size of the readings
    found = _estimate(probe, claim, estimator, probe.x, g)
    allowed = (APART + SIGMAS * probe.spec.noise) * float(found.norm())
    wrong = "the slope of the readings: a gain is another parameter, or is read at another place or in one direction"
    _check_slopes(probe, claim, found, g, allowed, wrong, estimator.trained(probe.spec))


def check_fields(probe: Probe) -> None:
    """The gradient from `Fields` is the slope of `⟨g, f(x; θ)⟩`, but for the declared asymmetry and the noise."""
    if not probe.spec.has(Fields):
        return
    claim = "fields give the gradient"
    estimator = ForwardMode() if probe.spec.linear else ScatteringBackprop()
    _require_served(probe, claim, estimator, "a bond for every parameter, a port for every input and output")
    g = probe.read(probe.x.flip(0), probe.other, claim)  # of the size of the readings
    rows = list(zip(probe.x.split(1), g.split(1), strict=True))
    drawn = torch.stack(
        [
            torch.stack([_estimate(probe, claim, estimator, row, part) for row, part in rows])
            for _ in range(probe.repeats)
        ]
    )  # (repeats, rows, P)
    each, found = drawn.mean(0), drawn.sum(1).mean(0)
    allowed = SYMMETRIC * float(found.norm()) + estimator.lasting_error(probe.spec) * float(each.norm(dim=1).sum())
    if probe.repeats > 1:
        allowed += SIGMAS * float(drawn.sum(1).std(0).norm()) / probe.repeats**0.5
    wrong = (
        "the slope of the readings: the symmetry is broken, or a bond or a port of an output is another one. An "
        "asymmetry that stays is declared with `Fields(asymmetry=...)`"
    )
    _check_slopes(probe, claim, found, g, allowed, wrong)


def _require_served(probe: Probe, claim: str, estimator: Estimator, wanted: str) -> None:
    try:
        estimator.check(probe.spec)
    except IncompatibleError as error:
        probe.bench.require(False, claim, str(error), wanted)


def _estimate(probe: Probe, claim: str, estimator: Estimator, x: Tensor, g: Tensor) -> Tensor:
    procedure = estimator.grad_theta(x, probe.theta, x, g, probe.spec, probe.generator)
    return probe.bench.run(claim, procedure, probe.device)


def _check_slopes(
    probe: Probe, claim: str, found: Tensor, g: Tensor, allowed: float, wrong: str, trained: Tensor | None = None
) -> None:
    """Compare a gradient with slopes along the trained parameters; allowed is an error of this size, and the readings'
    noise.
    """
    size, period = probe.spec.theta.size, probe.spec.theta.period
    scale = period / (2 * math.pi) if period is not None else float(probe.theta.square().mean().sqrt()) or 1.0
    reach = REACH * scale
    draws = torch.randn(DIRECTIONS, size, generator=probe.generator, device=probe.generator.device).to(probe.theta)
    if trained is not None:
        size, draws = int(trained.sum()), draws * trained.to(draws.device)
    steps = reach * draws / draws.norm(dim=1, keepdim=True)
    errors = []
    for step in steps:
        ends = [
            Query(probe.x, probe.spec.theta.clamp(probe.theta + sign * step), Purpose.CALIBRATE) for sign in (1, -1)
        ]
        plus, minus = _readings(probe, claim, ends)
        moved = ends[0].theta - ends[1].theta
        errors.append(float(((plus - minus) * g).sum() - found @ moved))
    error = (sum(each**2 for each in errors) / DIRECTIONS) ** 0.5
    along = 2 * reach / size**0.5  # the part of a gradient along a step that is drawn at random
    expected = along * float(found.norm())
    doubt = 2**0.5 * probe.sigma * float(g.norm())
    apart = error / expected if expected else error
    probe.bench.require(
        error <= along * allowed + SIGMAS * doubt, claim, f"its slope is off by {apart:.2g} of itself", wrong
    )
    probe.bench.note(claim, f"slopes within {apart:.2g}")
