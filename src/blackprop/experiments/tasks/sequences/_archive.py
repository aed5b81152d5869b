"""Sequences to be classified, in the text layout of the time series classification archive (.ts)."""

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
    """The sequences of a file, each (steps, channels) float32, their class names, and all that the header allows."""

    sequences: tuple[Tensor, ...]
    labels: tuple[str, ...]
    classes: tuple[str, ...]


@functools.lru_cache(maxsize=2)  # to train on and to test on
def read_ts(path: Path) -> Archived:
    """A .ts file: a header of lines `@word value`, of which `@classLabel true <names>` is needed; after `@data` a line
    for each sequence, its channels divided by colons, their values by commas, and its class at the end.

    Sequences may differ in length; zeros that a file has filled the ends of shorter ones with are taken off, unless the
    header has `@equalLength true`: then they are values.
    """
    lines = [line.strip() for line in read_lines(path)]
    words = [line.lower() for line in lines]
    if "@data" not in words:
        raise DataError(f"{path} is no .ts file: it has no line @data")
    start = words.index("@data") + 1
    header = {word.lower(): rest for line in lines[:start] if line.startswith("@") for word, *rest in [line.split()]}
    classes = header.get("@classlabel", [])
    if len(classes) < 3 or classes[0].lower() != "true":
        raise DataError(f"{path} names no two classes: its header has no line @classLabel true <names>")
    filled = [word.lower() for word in header.get("@equallength", [])] != ["true"]
    found = [
        _sequence(line, path, number, filled) for number, line in enumerate(lines[start:], start=start + 1) if line
    ]
    if not found:
        raise DataError(f"{path} holds no sequence")
    channels = found[0][0].shape[1]
    for number, (sequence, label) in enumerate(found, start=1):
        if sequence.shape[1] != channels:
            raise DataError(f"{path}: sequence {number} has {sequence.shape[1]} channels, and the first {channels}")
        if label not in classes[1:]:
            raise DataError(f"{path}: sequence {number} is of class {label}, of which the header does not tell")
    return Archived(tuple(s for s, _ in found), tuple(label for _, label in found), tuple(classes[1:]))


def _sequence(line: str, path: Path, number: int, filled: bool) -> tuple[Tensor, str]:
    """A sequence and its class; `filled` where zeros at its end may be no values."""
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
        raise DataError(f"{where} has a sequence of zeros alone")
    return sequence[:length], label.strip()


def last_nonzero(sequence: Tensor) -> int:
    """Steps of a sequence (steps, channels), or (steps,), up to the last at which not all is zero."""
    present = (sequence if sequence.dim() == 1 else sequence.abs().sum(1)).nonzero()
    return int(present.max()) + 1 if len(present) else 0


def _value(text: str, where: str) -> float:
    value = finite_number(text)
    if value is None:
        text = text.strip()
        what = "a missing value" if text in ("?", "NaN") else f"{text[:40]!r}, which is no finite number"
        raise DataError(f"{where} has {what}")
    return value
