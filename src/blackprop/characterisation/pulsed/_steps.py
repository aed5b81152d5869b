"""The bounds between which cells move, and how far steps up and down differ between them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from blackprop.characterisation._findings import Finding, sure, unknown
from blackprop.characterisation.pulsed._array import Array, CellSweep, swept
from blackprop.core._procedure import Procedure

PARTS = 24  # readings of a sweep
NODES = 6  # of the mean step over the range of a cell
MIDDLE = 0.2  # of its range on either side of its middle: where a cell's own step is taken
BOUND = 0.05  # of its range from its end: where a cell is taken to have arrived
ALIKE = 0.1  # between the asymmetries of two pairs of sweeps
FEW = 8  # cells, below which a spread is not told
CHECKED = 100.0  # checks at most that the cells of an array count for


@dataclass(frozen=True, eq=False)
class Steps:
    """The results of four sweeps: the mean bounds, their findings, and the pulses from one bound to the other."""

    asymmetry: Finding
    variation: Finding
    low: float
    high: float
    pulses: int

    @property
    def moves(self) -> bool:
        return self.high > self.low


def steps(array: Array) -> Procedure[Steps]:
    """Sweep all cells down and up, twice: the second pair must repeat the findings of the first."""
    yield from array.drive(1.0)
    _, fall = yield from array.drive(-1.0)
    _, rise = yield from array.drive(1.0)
    pulses = max(rise, fall)
    pairs = []
    for _ in range(2):
        down = yield from swept(array, -1.0, pulses, PARTS)
        up = yield from swept(array, 1.0, pulses, PARTS)
        pairs.append((up, down))
    high = float(torch.stack([up.weights[-2:] for up, _ in pairs]).mean())
    low = float(torch.stack([down.weights[-2:] for _, down in pairs]).mean())
    if not high > low:
        why = f"{pulses} pulses up end at {high:.3g} and as many down at {low:.3g}: the pulses move no cell"
        return Steps(unknown("asymmetry", why), unknown("cell variation", why), low, high, pulses)
    checks = min(float(pairs[0][0].weights[0].numel()), CHECKED)
    return Steps(_asymmetry(pairs, checks), _variation(pairs, checks), low, high, pulses)


def _asymmetry(pairs: list[tuple[CellSweep, CellSweep]], checks: float) -> Finding:
    """Root mean square of `(Δ₋ − Δ₊)/(Δ₋ + Δ₊)` over the inner nodes of the cells' own ranges."""
    name, found = "asymmetry", []
    for up, down in pairs:
        ends = down.weights[-2:].mean(0), up.weights[-2:].mean(0)
        curves = [_curve(sweep, *ends) for sweep in (up, down)]
        if any(curve is None for curve in curves):
            return unknown(name, "too few readings lie between the bounds of the cells")
        rise, fall = (curve[1:-1].clamp_min(0) for curve in curves if curve is not None)
        found.append(float(((fall - rise) / (fall + rise).clamp_min(1e-30)).square().mean().sqrt()))
    text = (
        f"steps up and down differ by {found[0]:.2g} of their sum (root mean square over the range of a cell), and by "
        f"{found[1]:.2g} in another pair of sweeps"
    )
    apart = abs(found[0] - found[1])
    if apart > ALIKE:
        return unknown(name, text)
    return Finding(name, sum(found) / 2, True, text, sure(checks), apart / 2)


def _curve(sweep: CellSweep, low: Tensor, high: Tensor) -> Tensor | None:
    """The mean step at the nodes of the cells' own ranges: least squares over hat functions, for all cells together.

    Readings of cells that have arrived at their bounds are left out; None for too few others.
    """
    span = (high - low).clamp_min(1e-30)
    rising = float(sweep.weights[-1].mean()) > float(sweep.weights[0].mean())
    t = (sweep.weights[1:] - low) / span
    inside = (t < 1 - BOUND) if rising else (t > BOUND)
    places = ((sweep.places - low) / span)[inside].clamp(0, 1) * (NODES - 1)
    if len(places) < 4 * NODES:
        return None
    hats = (1 - (places[:, None] - torch.arange(NODES).to(places)).abs()).clamp_min(0)
    normal = hats.mT @ hats + 1e-3 * len(places) / NODES * torch.eye(NODES).to(places)
    mean = sweep.steps[inside].mean()
    return mean + torch.linalg.solve(normal, hats.mT @ (sweep.steps[inside] - mean))


def _variation(pairs: list[tuple[CellSweep, CellSweep]], checks: float) -> Finding:
    """From cell to cell, by the covariance of two measurements of each: the noise of both does not enter."""
    name = "cell variation"
    first, second = (_own(up, down) for up, down in pairs)
    seen = first.isfinite() & second.isfinite()
    if int(seen.sum()) < FEW:
        return unknown(name, f"{int(seen.sum())} cells were read in the middle of their range; {FEW} are needed")
    first, second = first[seen], second[seen]
    mean = float((first.mean() + second.mean()) / 2)
    products = (first - first.mean()) * (second - second.mean())
    covariance, doubt = float(products.mean()), float(products.std()) / len(products) ** 0.5
    together = covariance / max(float(first.std() * second.std()), 1e-30)
    text = f"the own steps of {len(first)} cells, measured twice, have a correlation of {together:.2f}"
    if covariance <= 2 * doubt:
        why = f"{text}: cells differ by less than {(2 * doubt) ** 0.5 / mean:.2g} of the mean step"
        return Finding(name, 0.0, True, why, sure(checks), (2 * doubt) ** 0.5 / mean)
    relative = covariance**0.5 / mean
    return Finding(name, relative, True, text, sure(checks), doubt / mean**2 / (2 * relative))


def _own(up: CellSweep, down: CellSweep) -> Tensor:
    """The mean step of each cell (cells,) in the middle of its own range; nan where no reading lies there."""
    low, high = down.weights[-1], up.weights[-1]
    total = torch.zeros_like(low)
    for sweep in (up, down):
        inside = ((sweep.places - (low + high) / 2).abs() < MIDDLE * (high - low)).to(low)
        total = total + (inside * sweep.steps).sum(0) / inside.sum(0)
    return (total / 2).flatten()
