"""Tables of measured responses, as files hold them."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from blackprop.errors import ArgumentError

NEEDED, PLACE = {"theta", "response"}, ("output", "input")


class ResponseTable(NamedTuple):
    """Settings (K,), responses (K,) or (K, d_out, d_in), and the noise of a response, None where it is not given."""

    theta: Tensor
    response: Tensor
    noise: float | None


def read_table(path: Path, d_in: int, d_out: int) -> ResponseTable:
    """Read a CSV file with a header and the columns `theta` and `response`, one line a measurement.

    Also `output` and `input`, counted from 0, where each element has a curve of its own, and `noise`, the standard
    deviation of a response. Several lines at one setting are averaged, and give the noise where no column does.
    """
    rows, own = _lines(path)
    groups: dict[tuple[int, int], dict[float, list[float]]] = {}
    for row in rows:
        place = (int(row["output"]), int(row["input"])) if own else (0, 0)
        groups.setdefault(place, {}).setdefault(row["theta"], []).append(row["response"])
    wanted = {(i, j) for i in range(d_out) for j in range(d_in)} if own else {(0, 0)}
    if groups.keys() != wanted:
        lacking = sorted(wanted - groups.keys()) or sorted(groups.keys() - wanted)
        raise ArgumentError(
            f"{path} should hold a curve for each of {d_out} × {d_in} elements, see (output, input) {lacking[0]}"
        )
    settings = sorted(groups[0, 0])
    for place, curve in groups.items():
        if sorted(curve) != settings:
            raise ArgumentError(f"{path}: element {place} was measured at other settings than element (0, 0)")
    curves = [[_mean(groups[place][t]) for t in settings] for place in sorted(groups)]
    response = (
        torch.tensor(curves, dtype=torch.float64).mT.reshape(-1, d_out, d_in)
        if own
        else torch.tensor(curves[0]).double()
    )
    return ResponseTable(torch.tensor(settings, dtype=torch.float64), response, _noise(rows, groups))


def _lines(path: Path) -> tuple[list[dict[str, float]], bool]:
    """The lines as numbers, and whether they name elements."""
    with path.open(newline="") as file:
        reader = csv.DictReader(file)
        names = set(reader.fieldnames or ())
        own = names.issuperset(PLACE)
        if not names >= NEEDED or (not own and names & set(PLACE)):
            raise ArgumentError(
                f"{path} needs the columns theta and response, and output with input for elements that differ; it has "
                f"{', '.join(reader.fieldnames or ()) or 'none'}"
            )
        rows = []
        for number, row in enumerate(reader, 2):
            try:
                numbers = {name: float(row[name]) for name in names & {*NEEDED, *PLACE, "noise"}}
            except (TypeError, ValueError) as error:
                raise ArgumentError(f"{path}, line {number} cannot be read: {error}") from error
            if not all(map(math.isfinite, numbers.values())):
                raise ArgumentError(f"{path}, line {number} has a value that is not finite")
            rows.append(numbers)
    return rows, own


def _noise(rows: list[dict[str, float]], groups: dict[tuple[int, int], dict[float, list[float]]]) -> float | None:
    """The root mean square of the noise column, or else of the spread of repeated measurements."""
    if rows and "noise" in rows[0]:
        return math.sqrt(_mean([row["noise"] ** 2 for row in rows]))
    repeated = [values for curve in groups.values() for values in curve.values() if len(values) > 1]
    if not repeated:
        return None
    squares = sum(sum((value - _mean(values)) ** 2 for value in values) for values in repeated)
    return math.sqrt(squares / sum(len(values) - 1 for values in repeated))


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
