"""Sequences for classification, in the text format of the time series classification archive (.ts)."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from blackprop.errors import DataError
from blackprop.experiments.records._text_files import finite_number, read_lines


@dataclass(frozen=True, eq=False)
class Archived:
    """The sequences of a file, each (steps, channels) float32, their class names, and all classes of the header."""

    sequences: tuple[Tensor, ...]
    labels: tuple[str, ...]
    classes: tuple[str, ...]


@functools.lru_cache(maxsize=2)  # the training and the test file
def read_ts(path: Path) -> Archived:
    """Read a .ts file: a header with lines `@word value`, and after `@data` one line per sequence.

    The header must have `@classLabel true <names>`. In a sequence, colons separate channels, commas separate values,
    and the class is at the end. Sequences may differ in length. Zeros at the end are removed as padding, unless the
    header has `@equalLength true`. Raises `DataError` for other files.
    """
    lines = [line.strip() for line in read_lines(path)]
    words = [line.lower() for line in lines]
    if "@data" not in words:
        raise DataError(f"{path} is not a .ts file: it has no line @data")
    start = words.index("@data") + 1
    header = {word.lower(): rest for line in lines[:start] if line.startswith("@") for word, *rest in [line.split()]}
    classes = header.get("@classlabel", [])
    if len(classes) < 3 or classes[0].lower() != "true":
        raise DataError(f"{path} must name two classes or more, in a line @classLabel true <names> of its header")
    filled = [word.lower() for word in header.get("@equallength", [])] != ["true"]
    found = [
        _sequence(line, path, number, filled) for number, line in enumerate(lines[start:], start=start + 1) if line
    ]
    if not found:
        raise DataError(f"{path} does not hold a sequence")
    channels = found[0][0].shape[1]
    for number, (sequence, label) in enumerate(found, start=1):
        if sequence.shape[1] != channels:
            raise DataError(f"{path}: sequence {number} has {sequence.shape[1]} channels, but the first has {channels}")
        if label not in classes[1:]:
            raise DataError(f"{path}: sequence {number} is of class {label}, which is not in the header")
    return Archived(tuple(s for s, _ in found), tuple(label for _, label in found), tuple(classes[1:]))


def _sequence(line: str, path: Path, number: int, filled: bool) -> tuple[Tensor, str]:
    """Return a sequence and its class. `filled`: whether zeros at its end may be padding."""
    *channels, label = line.split(":")
    where = f"{path} in line {number}"
    if not channels:
        raise DataError(f"{where} has no class after a colon: it is cut short or damaged")
    values = [[_value(text, where) for text in channel.split(",")] for channel in channels]
    if len({len(channel) for channel in values}) > 1:
        raise DataError(f"{where} has channels of different lengths")
    sequence = torch.tensor(values).mT
    length = last_nonzero(sequence) if filled else len(sequence)
    if not length:
        raise DataError(f"{where} has a sequence with only zeros")
    return sequence[:length], label.strip()


def last_nonzero(sequence: Tensor) -> int:
    """Return the number of steps of a sequence (steps, channels) or (steps,) up to the last nonzero step."""
    present = (sequence if sequence.dim() == 1 else sequence.abs().sum(1)).nonzero()
    return int(present.max()) + 1 if len(present) else 0


def _value(text: str, where: str) -> float:
    value = finite_number(text)
    if value is None:
        text = text.strip()
        what = "a missing value" if text in ("?", "NaN") else f"{text[:40]!r}, which is not a finite number"
        raise DataError(f"{where} has {what}")
    return value
