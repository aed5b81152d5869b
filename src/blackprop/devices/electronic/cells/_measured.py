"""A cell fitted to measured curves of pulses and conductance."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from blackprop.devices.electronic.cells._piecewise import PiecewiseStep
from blackprop.errors import ArgumentError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ALIKE = 1e-12
AT_BOUND = 3  # readings at an end of the range, from which on it is a bound that cuts steps off


class MeasuredCell(NamedTuple):
    """A fit to measured curves.

    - `cell`: the fitted cell; its weight is 0 in the middle of the measured range, and ±1 at its ends.
    - `residual_up`, `residual_down`: root mean square of the residuals of every second step beside a fit to the other
      steps, in units of the mean step. This is the noise of a pulse and the error of the fit together.
    - `steps_up`, `steps_down`: the number of measured steps. Those that a bound cut off are left out.
    - `weights`, `directions`, `steps` (N,): the weight before each measured step, its direction (1 or −1), and its
      signed size.
    """

    cell: PiecewiseStep
    residual_up: float
    residual_down: float
    steps_up: int
    steps_down: int
    weights: Tensor
    directions: Tensor
    steps: Tensor

    def plot(self) -> Figure:
        """Return a Matplotlib figure: measured steps and the fit against the weight, with the residuals below.

        **Raises** `ArgumentError` without Matplotlib, which only this method needs.
        """
        try:
            from matplotlib.figure import Figure  # noqa: PLC0415  # optional, and slow to import
        except ImportError as error:
            raise ArgumentError("`plot` needs Matplotlib: pip install matplotlib") from error
        figure = Figure(figsize=(6.4, 5.6), layout="constrained")
        top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(2, 1))
        line = torch.linspace(-1, 1, 200, dtype=torch.float64)
        unit = self.cell.step
        for name, sign, colour in (("up", 1, "#0072B2"), ("down", -1, "#D55E00")):
            at = self.directions == sign
            w, size = self.weights[at], sign * self.steps[at] / unit
            nodes = torch.tensor(self.cell.nodes_up if sign > 0 else self.cell.nodes_down, dtype=torch.float64)
            fit = [_hats(each, len(nodes)) @ nodes for each in (line, w)]
            top.plot(w.numpy(), size.numpy(), ".", color=colour, alpha=0.35, markersize=3, label=f"{name}, measured")
            top.plot(line.numpy(), fit[0].numpy(), color=colour, label=f"{name}, fit")
            bottom.plot(w.numpy(), (size - fit[1]).numpy(), ".", color=colour, alpha=0.35, markersize=3)
        top.set_ylabel("step / mean step")
        top.legend(fontsize="small")
        bottom.axhline(0, color="black", linewidth=0.8)
        bottom.set_ylabel("measured − fit")
        bottom.set_xlabel("weight, −1 and 1 at the ends of the measured range")
        return figure


def from_measurements(path: str | Path, *, nodes: int = 5) -> MeasuredCell:
    """Fit a `PiecewiseStep` to measured curves: least squares of the steps over hat functions of the weight.

    - `path`: a CSV file with a header and the columns `direction` (up or down, 1 or −1: that of the pulse before the
      reading; empty for the first reading of a curve) and `conductance` (any unit, read after each pulse).
    - `nodes` (default 5): nodes of the fit for each direction, at least 2.

    Spreads from cell to cell are 0: give them with `dataclasses.replace`. Look at the fit before you use it:
    `from_measurements(path).plot().savefig("fit.png")`.

    **Raises** `ArgumentError` for a file without these columns, and for fewer steps than nodes in a direction.
    """
    if not (isinstance(nodes, int) and nodes >= 2):
        raise ArgumentError(f"`from_measurements(nodes=...)` must be a whole number from 2, got {nodes!r}")
    direction, g = _read(Path(path))
    low, high = float(g.min()), float(g.max())
    if not high - low > ALIKE * max(abs(low), abs(high)):
        raise ArgumentError(f"the conductance in {path} does not change: the pulses move no cell")
    w = (2 * g - high - low) / (high - low)
    steps, before = w[1:] - w[:-1], w[:-1]
    inside = ~_cut_off(w, direction)
    fitted, residual, count = {}, {}, {}
    for name, sign in (("up", 1), ("down", -1)):
        at = (direction[1:] == sign) & inside
        count[name] = int(at.sum())
        if count[name] < nodes:
            raise ArgumentError(f"{path} has {count[name]} steps {name}, and {nodes} nodes need at least as many")
        size = sign * steps[at]
        hats = _hats(before[at], nodes)
        fitted[name] = _solved(hats, size)
        # Each half of the steps beside the fit to the other half, which has not seen them.
        halves = [slice(start, None, 2) for start in (0, 1)]
        left = [size[a] - hats[a] @ _solved(hats[b], size[b]) for a, b in (halves, halves[::-1])]
        residual[name] = float(torch.cat(left).square().mean().sqrt())
    step = float(torch.cat([fitted["up"], fitted["down"]]).mean())
    if not step > 0:
        raise ArgumentError(f"the steps in {path} go against their direction: are `up` and `down` exchanged?")
    noise = math.sqrt((residual["up"] ** 2 + residual["down"] ** 2) / 2) / step
    spreads = dict.fromkeys(("step_spread", "high_spread", "low_spread", "asymmetry_spread"), 0.0)
    cell = PiecewiseStep(
        step=step,
        high=1.0,
        low=-1.0,
        noise=noise,
        nodes_up=tuple((fitted["up"] / step).tolist()),
        nodes_down=tuple((fitted["down"] / step).tolist()),
        **spreads,
    )
    pulsed = (direction[1:] != 0) & inside
    return MeasuredCell(
        cell,
        residual["up"] / step,
        residual["down"] / step,
        count["up"],
        count["down"],
        before[pulsed],
        direction[1:][pulsed],
        steps[pulsed],
    )


def _read(path: Path) -> tuple[Tensor, Tensor]:
    """The directions (0 where a curve begins) and the conductances."""
    words = {"up": 1, "1": 1, "+1": 1, "down": -1, "-1": -1, "": 0, "0": 0}
    with path.open(newline="") as file:
        rows = csv.DictReader(file)
        if not {"direction", "conductance"} <= set(rows.fieldnames or ()):
            raise ArgumentError(f"{path} needs the columns direction and conductance, got {rows.fieldnames}")
        try:
            pairs = [(words[row["direction"].strip().lower()], float(row["conductance"])) for row in rows]
        except (KeyError, ValueError, AttributeError) as error:
            raise ArgumentError(f"{path} has a row that cannot be read: {error!r}") from error
    if len(pairs) < 2 or not all(math.isfinite(g) for _, g in pairs):
        raise ArgumentError(f"{path} needs at least two finite conductances, got {len(pairs)} rows")
    direction, g = zip(*pairs, strict=True)
    return torch.tensor(direction), torch.tensor(g, dtype=torch.float64)


def _solved(hats: Tensor, size: Tensor) -> Tensor:
    return torch.linalg.lstsq(hats, size[:, None], driver="gelsd").solution.squeeze(1).clamp_min(0)


def _cut_off(w: Tensor, direction: Tensor) -> Tensor:
    """Which steps start or end at a hard bound: an end of the range, −1 or 1, that was read at least three times."""
    found = torch.zeros(len(w) - 1, dtype=torch.bool)
    for sign in (1, -1):
        there = (w - sign).abs() < 1e-9
        if int(there.sum()) >= AT_BOUND:
            found |= (direction[1:] == sign) & (there[1:] | there[:-1])
    return found


def _hats(w: Tensor, nodes: int) -> Tensor:
    """The hat functions (n, nodes) over −1 to 1 at w (n,)."""
    places = torch.linspace(-1, 1, nodes, dtype=w.dtype)
    return (1 - (w[:, None] - places).abs() * (nodes - 1) / 2).clamp_min(0)
