"""Text files of numbers, with or without a byte-order mark."""

from __future__ import annotations

import math
from pathlib import Path

from blackprop.errors import DataError


def read_lines(path: Path) -> list[str]:
    """Return the lines of a UTF-8 file, without its byte-order mark.

    **Raises** `DataError` if the file cannot be read or is not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8-sig").split("\n")
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text: byte {error.start} cannot be decoded") from error


def finite_number(text: str) -> float | None:
    """Return the text as a finite number, or None if it is not one.

    Python also accepts `1_0` and digits of other scripts as numbers. In a file they are mistakes.
    """
    try:
        value = float(text) if text.isascii() and "_" not in text else math.nan
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def is_companion(path: Path) -> bool:
    """Return whether a file is a `._` file, in which macOS stores attributes of another file."""
    return path.name.startswith("._")
