"""SCPI by templates: the commands and questions for an instrument's channels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from string import Formatter

import numpy as np

from blackprop.errors import ArgumentError, ReadingError

OVERFLOW, NO_VALUE = 9.9e37, 9.91e37  # SCPI's words for infinity and for NaN


@dataclass(frozen=True)
class Channels:
    """Numbers that are written to an instrument, one command a channel.

    **Arguments:**

    - `write`: the command, with the fields `{value}` and `{channel}`, as in `"SOUR{channel}:VOLT {value:.6f}"` or
      `"VOLT {value:.4f},(@{channel})"`.
    - `channels`: the values of `{channel}`, in order.
    - `low`, `high` (default no limit): the limits of every value, inclusive.
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

    **Arguments:**

    - `query`: the question. With the field `{channel}` it is sent once a channel, as `"MEAS:VOLT? (@{channel})"`;
      otherwise once for all, and answered by numbers separated by commas, as `"FETC? (@{channels})"`, where
      `{channels}` is the list of all channels.
    - `channels`: the outputs in order.
    - `dtype` (default None, text): for numbers in a binary block of definite length (IEEE 488.2, `#18` and 8 bytes),
      NumPy's name of the element type with its byte order, as `">f4"` or `"<i2"`.
    """

    query: str
    channels: Sequence[int | str]
    dtype: str | None = None

    def __post_init__(self) -> None:
        _fields(self, "query", self.query, {"channel", "channels"}, self.channels)
        try:
            kind = "f" if self.dtype is None else np.dtype(self.dtype).kind
        except TypeError as error:
            raise ArgumentError(f"`Readings(dtype=...)`: {error}") from error
        if kind not in "fiu":
            raise ArgumentError(f"`Readings(dtype=...)` takes a real type as '>f4', or None, got {self.dtype!r}")

    def questions(self) -> list[tuple[str, int]]:
        """Return the questions, each with the number of numbers in its answer."""
        if "channel" in {name for _, name, _, _ in Formatter().parse(self.query)}:
            return [(self.query.format(channel=channel, channels=channel), 1) for channel in self.channels]
        return [(self.query.format(channels=",".join(map(str, self.channels))), len(self.channels))]


def numbers(answer: str) -> list[float] | None:
    """Return the numbers of a text separated by commas; None for any other text."""
    try:
        return [number(_decimal(word)) for word in answer.split(",")]
    except ValueError:
        return None


def is_number(text: str) -> bool:
    """Whether a line could be taken for readings."""
    return numbers(text) is not None


def numbers_of_block(content: bytes, dtype: str) -> list[float] | None:
    """The elements of a binary block; None where it does not hold whole ones."""
    if len(content) % np.dtype(dtype).itemsize:
        return None
    return [number(value) for value in np.frombuffer(content, dtype).astype(np.float64).tolist()]


def split_block(raw: bytes) -> tuple[bytes, bytes] | None:
    """Return the content of a definite-length block and the bytes after it; None if the block is incomplete."""
    if len(raw) < 2:
        if raw not in (b"", b"#"):
            raise _no_block(raw)
        return None
    digits = raw[1] - ord("0")
    if raw[:1] != b"#" or not 1 <= digits <= 9:  # 0: of indefinite length, whose end a stream does not tell
        raise _no_block(raw)
    head = 2 + digits
    if len(raw) < head:
        return None
    if not raw[2:head].isdigit():
        raise _no_block(raw)
    end = head + int(raw[2:head])
    return (raw[head:end], raw[end:]) if len(raw) >= end else None


def _no_block(raw: bytes) -> ReadingError:
    return ReadingError(f"an answer that begins with {raw[:20]!r} is not a binary block of definite length")


def _decimal(word: str) -> float:
    if "_" in word or not word.isascii():  # which Python takes for numbers
        raise ValueError(word)
    return float(word)


def number(answer: float) -> float:
    """Return the meaning of a number: 9.91E37 is NaN, ±9.9E37 an overload."""
    if math.isclose(answer, NO_VALUE, rel_tol=1e-4):
        return math.nan
    return math.copysign(math.inf, answer) if abs(answer) >= OVERFLOW else answer


def no_error(answer: str) -> bool:
    """Whether an error queue says that it is empty, as in `+0,"No error"`."""
    code = answer.split(",", maxsplit=1)[0].strip()
    return code.lstrip("+-").strip("0") == "" and code[-1:] == "0"


def _fields(owner: object, name: str, template: str, known: set[str], channels: Sequence[int | str]) -> dict[str, str]:
    """The fields of a template and how each is formatted."""
    what = f"`{type(owner).__name__}({name}=...)`"
    try:
        fields = {field: spec or "" for _, field, spec, _ in Formatter().parse(template) if field is not None}
    except ValueError as error:
        raise ArgumentError(f"{what} is not a template: {error} in {template!r}") from error
    if not fields.keys() <= known:
        allowed = ", ".join(f"{{{field}}}" for field in sorted(known))
        raise ArgumentError(f"{what} takes the fields {allowed}, got {template!r}")
    if not channels or isinstance(channels, str) or len(set(channels)) < len(channels):
        raise ArgumentError(f"`{type(owner).__name__}(channels=...)` names at least one, none twice, got {channels}")
    return fields


def _written(value: float, spec: str) -> float:
    """Return the number that an instrument reads from `value` in this format."""
    try:
        return float(format(float(value), spec))
    except ValueError as error:
        raise ArgumentError(f"`Channels(write=...)`: {{value:{spec}}} does not write {value} as a number") from error
