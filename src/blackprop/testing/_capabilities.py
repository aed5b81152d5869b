"""Whether a device fulfils the declarations of its capabilities."""

from __future__ import annotations

import torch
from torch import Tensor

from blackprop.core._capability import Capability
from blackprop.core._procedure import ask
from blackprop.core._query import Purpose, Query
from blackprop.core._read_back import ReadBack
from blackprop.core._round import Round
from blackprop.testing._bench import normal
from blackprop.testing._probe import SIGMAS, Probe


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
    if capability.writes:
        probe.bench.note(claim, f"{wanted}, writes")
        return
    text = probe.alike(
        claim,
        lambda: _readings(probe, claim, queries)[2],
        lambda: _readings(probe, claim, queries[:1])[0],
        "an ordinary reading after it",
    )
    if reading.numel():
        text = probe.alike(
            claim,
            lambda: _readings(probe, claim, queries)[1],
            lambda: _readings(probe, claim, queries[1:2])[0],
            "its reading in a round with others",
        )
    probe.bench.note(claim, text)


def capability_rows(probe: Probe, capability: Capability) -> Tensor:
    """Return random rows for the capability, as many as the probe has."""
    if capability.row_shape(probe.spec) == probe.spec.in_shape:
        return probe.x
    x = normal((len(probe.x), *capability.row_shape(probe.spec)), torch.Generator().manual_seed(0))
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
