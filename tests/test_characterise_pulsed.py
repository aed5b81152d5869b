"""What `characterise` finds of pulsed cells, held against the cells that were drawn; and the plan that follows."""

from __future__ import annotations

import json

import pytest
import torch

import blackprop as bp
from blackprop.core import Pulse
from blackprop.devices import PulsedCrossbar, cells
from blackprop.errors import ArgumentError

SAME = {"step_spread": 0.0, "high_spread": 0.0, "low_spread": 0.0, "asymmetry_spread": 0.0}
SPREAD = {"step_spread": 0.25, "high_spread": 0.1, "low_spread": 0.1, "asymmetry_spread": 0.05}


def found(cell: cells.Cell, gains: tuple[float, ...] = (0.0, 1.0), size: tuple[int, int] = (12, 10), **kwargs: object):
    return bp.characterise(PulsedCrossbar(*size, cell, gains=gains, seed=3), **kwargs)


def value(result: bp.characterisation.Characterisation, name: str) -> float:
    finding = result[name]
    assert finding.known, finding
    assert isinstance(finding.value, float)
    return finding.value


@pytest.mark.parametrize("write", [0.0, 8.0])
def test_soft_bounds_are_found_as_they_were_drawn(write):
    """Their steps where they rest, their range, spread, noise and symmetric points, behind write noise too."""
    cell = cells.SoftBounds(step=0.02, high=0.9, low=-0.6, asymmetry=0.3, noise=0.4, write_noise=write, **SPREAD)
    device = PulsedCrossbar(12, 10, cell, gains=(0.0, 1.0), seed=3)
    result = bp.characterise(device)
    drawn = {name: each[0] for name, each in device._cells.items()}
    point = cell.symmetric_point(drawn)
    step = cell.mean_step(point, cell.law(torch.ones(10, 12, dtype=torch.bool), drawn))
    both = torch.stack((drawn["up"], drawn["down"]))
    noise = 0.4 * float(both.square().mean().sqrt() / step.square().mean().sqrt())  # of U and D, not of the step
    assert value(result, "step size") == pytest.approx(float(step.mean()), rel=0.06)
    assert value(result, "states") == pytest.approx(1.5 / float(step.mean()), rel=0.12)
    assert value(result, "symmetric point") == pytest.approx(float(point.square().mean().sqrt()), abs=0.04)
    assert value(result, "cycle variation") == pytest.approx(noise, rel=0.2)
    assert value(result, "write noise") == pytest.approx(0.02 * write, rel=0.1, abs=0.004)
    assert 0.2 < value(result, "cell variation") < 0.5
    assert 0.3 < value(result, "asymmetry") < 0.7
    pulse = result.declaration.capability(Pulse)
    assert pulse.granularity == pytest.approx(value(result, "step size"), rel=1e-3)
    assert (pulse.low, pulse.high) == pytest.approx((-0.6, 0.9), abs=0.08)


def test_steps_that_are_alike_have_no_symmetric_point_and_no_asymmetry():
    result = found(cells.ConstantStep(step=0.004, noise=0.3, **SAME))
    assert value(result, "step size") == pytest.approx(0.004, rel=0.02)
    assert value(result, "asymmetry") < 0.02
    assert value(result, "cell variation") < 0.05
    assert value(result, "cycle variation") == pytest.approx(0.3, rel=0.1)
    assert not result["symmetric point"].known
    assert "no point draws them" in result["symmetric point"].evidence


def test_fading_weights_are_told_with_their_lifetime_and_lasting_ones_with_a_bound():
    fading = found(cells.SoftBounds(step=0.02, lifetime=400.0, reset_spread=0.0, **SAME))
    assert value(fading, "retention") == pytest.approx(400, rel=0.05)
    lasting = found(cells.SoftBounds(step=0.02, **SAME))
    assert lasting["retention"].known
    assert lasting["retention"].value is None
    assert "a lifetime of at least" in lasting["retention"].evidence


def test_cells_of_few_states_are_not_told_a_noise_that_their_bounds_cut_off():
    result = found(cells.ARRAY_HFO2, size=(16, 12))
    assert value(result, "states") < 6
    assert not result["cycle variation"].known
    assert "between which a cell of so few states goes to and fro" in result["symmetric point"].evidence


def test_cells_that_pulses_do_not_move_are_told_as_such():
    result = found(cells.ConstantStep(stuck=1.0, **SAME))
    for name in ("step size", "states", "asymmetry", "cell variation", "symmetric point"):
        assert not result[name].known, result[name]
    assert "move no cell" in result["asymmetry"].evidence
    assert result.declaration.capability(Pulse).symmetric_point is None


@pytest.mark.parametrize(
    ("cell", "gains", "plan"),
    [
        (cells.SoftBounds(step=0.02, asymmetry=0.5, **SAME), (0.0, 1.0), "agad"),
        (cells.SoftBounds(step=0.02, **SAME), (0.0, 1.0), "tiki-taka"),
        (cells.SoftBounds(step=0.02, **SAME), (1.0,), "mixed-precision"),
        (cells.SoftBounds(step=0.1, asymmetry=0.5, **SAME), (0.0, 1.0), "mixed-precision"),
        (cells.SoftBounds(step=0.02, asymmetry=0.5, **SAME), (0.2, 1.0), "residual"),
    ],
    ids=["offset", "centred", "one tile", "few states", "read too"],
)
def test_the_plan_follows_what_was_found(cell, gains, plan):
    result = found(cell, gains, size=(8, 6))
    assert bp.plan(result.device, 8).name == plan
    assert result.conclusion.plan.startswith(f"{plan}:")
    built = bp.PhysicalLayer(result.device)
    assert type(built.estimator).__name__ == type(bp.plan(result.device, 8).estimator).__name__


def test_the_line_to_paste_declares_the_cells(tmp_path):
    result = found(cells.SoftBounds(step=0.02, asymmetry=0.5, **SAME), size=(8, 6))
    device = PulsedCrossbar(8, 6, gains=(0.0, 1.0))
    names = {"bp": bp, "torch": torch, "device": device}
    exec(result.conclusion.line, names)
    assert names["device"].declaration.capability(Pulse) == result.declaration.capability(Pulse)
    result.save(tmp_path)
    told = json.loads((tmp_path / "report.json").read_text())["findings"]
    assert told["states"]["value"] == pytest.approx(value(result, "states"))
    assert "cycle variation" in (tmp_path / "report.txt").read_text()


def test_a_budget_of_pulses_ends_the_questions_and_says_so():
    result = found(cells.SoftBounds(step=0.02, **SAME), budget=bp.Budget(pulse=1000))
    assert result.ledger.actions["pulse"] <= 1000
    assert "the budget ended here" in result["step size"].evidence
    assert result["linear"].known


def test_other_devices_are_asked_nothing_about_pulses_and_cannot_be_given_them():
    assert "step size" not in bp.characterise(bp.devices.Matrix(4, 3)).findings
    with pytest.raises(ArgumentError, match="does not have the capability 'pulse'"):
        bp.devices.Declared(bp.devices.Matrix(4, 3), capabilities=[Pulse(0.1, -1, 1)])
    with pytest.raises(ArgumentError, match=r"Pulse\(noise=...\)` must be finite and not negative"):
        Pulse(0.1, -1, 1, noise=-1.0)
