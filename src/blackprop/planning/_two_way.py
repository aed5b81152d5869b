"""Candidates for devices that run both ways, or are read inside: crossbars, coupled modes, mirrors, factored meshes."""

from __future__ import annotations

from blackprop.planning import _physics as physics
from blackprop.planning._candidates import MATRIX, Candidate, Quality

TWO_WAY: tuple[Candidate, ...] = (
    Candidate(
        "outer",
        Quality.EXACT,
        physics.is_crossbar,
        physics.outer,
        lambda spec: (
            f"a crossbar, a parameter for each of {spec.theta.size} cells: their gradient is an outer product, without "
            "a query" + physics.backwards(spec)
        ),
        needs=f"{MATRIX} whose parameters are its cells (`Cells`)",
    ),
    Candidate(
        "forward-mode",
        Quality.EXACT,
        lambda spec: spec.linear and physics.has_fields(spec),
        physics.from_fields,
        lambda spec: (
            f"fields are read at the places of all {spec.theta.size} parameters: their gradient from rows and errors "
            "that are sent alike" + physics.backwards(spec)
        ),
        needs="a linear device whose fields are read (`Fields`)",
    ),
    Candidate(
        "scattering",
        Quality.EXACT,
        lambda spec: not spec.linear and physics.has_fields(spec),
        physics.from_fields,
        lambda spec: (
            f"fields are read at the places of all {spec.theta.size} parameters: two drives a row, which differ by its "
            "error"
        ),
        needs="a device that is not declared linear, whose fields are read (`Fields`)",
    ),
)

SUBSPACE = Candidate(
    "subspace",
    Quality.ASKED,
    physics.has_gains,
    physics.subspace,
    lambda spec: (
        "gains between two fixed matrices: they alone are trained, by light from both ends, 2 rows for each of 8 pairs"
        + physics.backwards(spec)
    ),
    needs="a linear device with gains inside that are read from both ends (`Gains`)",
)
