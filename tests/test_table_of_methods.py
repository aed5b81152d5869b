"""The table of methods is one: the plan's, the command's and the documents', with the prices that they state."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import pytest
import torch

import blackprop as bp
from blackprop.cli._run_commands import METHODS
from blackprop.devices import LightModulator, MZIMesh
from blackprop.errors import ArgumentError, IncompatibleError
from blackprop.experiments.methods._methods import Planned
from blackprop.planning import CANDIDATES, Candidate

DOCS = Path(__file__).parents[1] / "docs"
REFERENCES = {"oracle", "default", "characterised", "ask-first"}  # ways to choose, and no methods
BATCH = 40


def rows_of(text: str, heading: str) -> list[list[str]]:
    """The cells of the first table of a document whose first line has this heading."""
    lines = text.splitlines()
    first = next(n for n, line in enumerate(lines) if line.startswith("|") and heading in line)
    table = itertools.takewhile(lambda line: line.startswith("|"), lines[first + 2 :])
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table]


METHOD_ROWS = rows_of((DOCS / "methods" / "README.md").read_text(), "method | name")
ROW_OF = {name: row for row in METHOD_ROWS for name in re.findall(r"`([^`]+)`", row[1])}


def test_every_method_of_plan_and_command_has_one_row_and_every_page_is_listed():
    named = [name for row in METHOD_ROWS for name in re.findall(r"`([^`]+)`", row[1])]
    assert sorted(named) == sorted({*METHODS, *(each.name for each in CANDIDATES)} - REFERENCES)
    pages = {page for row in METHOD_ROWS for page in re.findall(r"\]\(([^)]+)\)", row[0])}
    assert pages == {page.name for page in (DOCS / "methods").glob("*.md")} - {"README.md"}


def test_how_to_choose_names_every_candidate():
    text = (DOCS / "how-to-choose.md").read_text()
    table = " ".join(row[2] for row in rows_of(text, "declare | candidate"))
    named = set(re.findall(r"`([^`]+)`", table))
    assert named == {each.name for each in CANDIDATES}


def value(formula: str, **numbers: int) -> int:
    """A formula of the table, in which what stands side by side is multiplied."""
    tokens = re.findall(r"\d[\d,]*|[A-Za-z_]+|[()+−-]", formula.replace("−", "-"))
    text = ""
    for token in tokens:
        if text and (text[-1].isalnum() or text[-1] == ")") and (token[0].isalnum() or token == "("):
            text += "*"
        text += token.replace(",", "")
    return int(eval(text, {}, dict(numbers)))


def suited(candidate: Candidate) -> bp.Device:
    def bent(size: int) -> bp.Device:
        return bp.devices.from_callable(
            lambda x, t: (x[:, :3] * t.sum()).sin(), in_shape=4, out_shape=3, theta_size=size, period=7.0, harmonics=1
        )

    linear, chip = bp.devices.Monarch(70, 20), bp.devices.Chip(bp.devices.chips.Rectangular(), 8, 8)
    pulsed = [bp.devices.PulsedCrossbar(70, 20, gains=gains) for gains in ((1,), (0, 1), (0.2, 1), (0.04, 0.2, 1))]
    factored = bp.devices.SVDMesh(*(bp.devices.Chip(bp.devices.chips.Rectangular(), 8, 8) for _ in range(2)))
    others = (
        bp.devices.Crossbar(70, 20, line=1.0),
        bp.devices.MirroredDiffraction(9, 4, planes=2),
        bp.devices.CoupledModes(4, 3, kerr=0.02),
        factored,
    )
    devices = (LightModulator(70, 20), bent(20), bent(10), MZIMesh(70, 20), linear, chip, bent(40), *others, *pulsed)
    return next(device for device in devices if not candidate.why_not(device.declaration))


@pytest.mark.parametrize("candidate", [each for each in CANDIDATES if each.name in ROW_OF], ids=lambda each: each.name)
def test_prices_are_those_of_the_table(candidate: Candidate):
    device, row = suited(candidate), ROW_OF[candidate.name]
    plan = bp.plan(device, BATCH, candidates=[candidate])
    contraction = getattr(plan.estimator, "contraction", None)
    numbers = {
        "P": device.theta.size,
        "B": BATCH,
        "M": getattr(plan.estimator, "count", 0),
        "k": getattr(contraction or plan.estimator, "rank", 0),
        "K": int(last) if (last := candidate.name.split("-")[-1]).isdigit() else 0,
        "d_in": device.declaration.d_in,
        "d_out": device.declaration.d_out,
        "N": 8,
        "R": 32,
    }
    numbers["k"] = numbers["k"] or getattr(plan.estimator, "pairs", 0)
    for cell, step, start in (
        (row[3], plan.price.step.total_rows - BATCH, plan.price.start.total_rows),
        (row[4], max(0, plan.price.step.total_programmings - 1), plan.price.start.total_programmings),
    ):
        each, _, once = cell.partition(", once ")
        assert value(each, **numbers) == step, cell
        if once:
            assert value(once, **numbers) == start, cell


def test_a_candidate_says_why_it_does_not_apply():
    mesh = MZIMesh(6, 4)
    plan = bp.plan(mesh, 16, {"rows": 20_000}, steps=20)
    assert plan.passed_over["calibrated-16"] == "needs a linear device of vectors with element coupling"
    assert plan.passed_over["frozen"] == "trains worse"
    assert plan.name not in plan.passed_over
    assert set(plan.passed_over) | {plan.name} == {each.name for each in CANDIDATES}
    for said in (plan.name, plan.reason, "calibrated-16", f"{plan.price.after(20).total_rows:,} rows"):
        assert said in str(plan)
    with pytest.raises(IncompatibleError, match="calibrated-16 needs a linear device"):
        bp.plan(mesh, 16, candidates=[CANDIDATES[0]])
    for candidate in CANDIDATES:
        assert bool(candidate.why_not(mesh.declaration)) is not candidate.applies(mesh.declaration)


def test_the_smallest_budget_leaves_theta_as_it_is():
    device = MZIMesh(16, 8)
    frozen = next(each for each in CANDIDATES if each.name == "frozen")
    least = bp.plan(device, 32, candidates=[frozen]).price.after(10)
    plan = bp.plan(device, 32, bp.Budget(rows=least.total_rows, programmings=1), steps=10)
    assert plan.name == "frozen"
    assert "known to train worse" in plan.reason


@pytest.mark.parametrize("candidate", CANDIDATES, ids=lambda candidate: candidate.name)
def test_the_command_trains_every_candidate_by_its_name(candidate: Candidate):
    device, method = suited(candidate), Planned(candidate.name)
    assert method.name == candidate.name
    assert candidate.name in METHODS
    layer = method.layer(device, torch.Generator().manual_seed(0))
    expected = candidate.method(device.declaration)
    assert type(layer.estimator) is type(expected.estimator)
    assert type(layer.surrogate) is type(expected.surrogate)


def test_unknown_and_unsuited_candidates_are_refused():
    with pytest.raises(ArgumentError, match="must be one of calibrated-16"):
        Planned("calibrated-17")
    with pytest.raises(IncompatibleError, match="needs a linear device of vectors with element coupling"):
        Planned("calibrated-16").layer(MZIMesh(6, 4), torch.Generator())
