"""Text files of numbers as people have them, with or without a byte-order mark."""

from __future__ import annotations

import math
from pathlib import Path

from blackprop.errors import DataError


def read_lines(path: Path) -> list[str]:
    """The lines of a UTF-8 file, without its byte-order mark.

    **Raises** `DataError` where the file cannot be read, or is not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8-sig").split("\n")
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text: byte {error.start} cannot be decoded") from error


def finite_number(text: str) -> float | None:
    """The finite number that a text is; None where it is none.

    Python also takes `1_0` and digits of other scripts for numbers. In a file they are a mistake.
    """
    try:
        value = float(text) if text.isascii() and "_" not in text else math.nan
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def is_companion(path: Path) -> bool:
    """Whether a file is one of the `._` files in which macOS keeps attributes beside the file of that name."""
    return path.name.startswith("._")
