"""SCPI by templates: what is written to an instrument's channels, and what it is asked."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from string import Formatter

from blackprop.errors import ArgumentError

OVERFLOW, NO_VALUE = 9.9e37, 9.91e37  # SCPI's words for infinity and for NaN


@dataclass(frozen=True)
class Channels:
    """Numbers that are written to an instrument, one command a channel.

    **Arguments:** `write`, the command, with the fields `{value}` and `{channel}`, as in
    `"SOUR{channel}:VOLT {value:.6f}"` or `"VOLT {value:.4f},(@{channel})"`; `channels`, what the second stands for, in
    order; `low` and `high`, the limits of every value, inclusive.
    """

    write: str
    channels: Sequence[int | str]
    low: float = -math.inf
    high: float = math.inf

    def __post_init__(self) -> None:
        fields = _fields(self, "write", self.write, {"channel", "value"}, self.channels)
        if "value" not in fields:
            raise ArgumentError(f"`Channels(write=...)` needs the field {{value}}, got {self.write!r}")
        if len(self.channels) > 1 and "channel" not in fields:
            raise ArgumentError(f"`Channels(write=...)` needs the field {{channel}}, got {self.write!r}")
        if not self.low < self.high:
            raise ArgumentError(f"`Channels(low=..., high=...)`: low must be under high, got {self.low}, {self.high}")
        for limit in (self.low, self.high):
            written = _written(limit, fields["value"])
            if not self.low <= written <= self.high:
                raise ArgumentError(
                    f"`Channels`: the limit {limit!r} would be written as {written!r} by {self.write!r}, beyond it; "
                    "write more digits, or give a rounder limit"
                )

    def commands(self, values: Sequence[float]) -> list[str]:
        pairs = zip(self.channels, values, strict=True)
        return [self.write.format(channel=channel, value=value) for channel, value in pairs]


@dataclass(frozen=True)
class Readings:
    """Numbers that an instrument is asked for, one an output.

    **Arguments:** `query`, the question; `channels`, the outputs in order. With the field `{channel}` it is asked once
    a channel, as `"MEAS:VOLT? (@{channel})"`; else once for all, and answered by numbers with commas between them, as
    `"FETC? (@{channels})"`, where `{channels}` is the list of all of them.
    """

    query: str
    channels: Sequence[int | str]

    def __post_init__(self) -> None:
        _fields(self, "query", self.query, {"channel", "channels"}, self.channels)

    def questions(self) -> list[tuple[str, int]]:
        """What to ask, and how many numbers answer it."""
        if "channel" in {name for _, name, _, _ in Formatter().parse(self.query)}:
            return [(self.query.format(channel=channel, channels=channel), 1) for channel in self.channels]
        return [(self.query.format(channels=",".join(map(str, self.channels))), len(self.channels))]


def number(answer: float) -> float:
    """What an instrument means: 9.91E37 is no value, ±9.9E37 an overload."""
    if math.isclose(answer, NO_VALUE, rel_tol=1e-4):
        return math.nan
    return math.copysign(math.inf, answer) if abs(answer) >= OVERFLOW else answer


def no_error(answer: str) -> bool:
    """Whether an error queue says that it is empty, as in `+0,"No error"`."""
    try:
        return int(answer.split(",", maxsplit=1)[0]) == 0
    except ValueError:
        return False


def _fields(owner: object, name: str, template: str, known: set[str], channels: Sequence[int | str]) -> dict[str, str]:
    """The fields of a template and how each is formatted."""
    what = f"`{type(owner).__name__}({name}=...)`"
    try:
        fields = {field: spec or "" for _, field, spec, _ in Formatter().parse(template) if field is not None}
    except ValueError as error:
        raise ArgumentError(f"{what} is no template: {error} in {template!r}") from error
    if not fields.keys() <= known:
        allowed = ", ".join(f"{{{field}}}" for field in sorted(known))
        raise ArgumentError(f"{what} takes the fields {allowed}, got {template!r}")
    if not channels or isinstance(channels, str) or len(set(channels)) < len(channels):
        raise ArgumentError(f"`{type(owner).__name__}(channels=...)` names at least one, none twice, got {channels}")
    return fields


def _written(value: float, spec: str) -> float:
    """What an instrument takes `value` for."""
    try:
        return float(format(float(value), spec))
    except ValueError as error:
        raise ArgumentError(f"`Channels(write=...)`: {{value:{spec}}} does not write {value} as a number") from error
