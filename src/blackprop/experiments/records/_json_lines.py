"""Files of JSON objects, one per line, that grow at the end. Damaged lines are skipped."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any


def parsed(text: str | bytes) -> Any:
    """Return the JSON value in `text`. Raises `ValueError` if it is not JSON, or nested too deeply."""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def read(path: Path) -> list[dict[str, Any]]:
    """Return the objects of the file's complete lines; none if it does not exist. Raises `OSError` if unreadable."""
    found = []
    for line in path.read_bytes().split(b"\n") if path.exists() else ():
        try:
            value = parsed(line)
        except ValueError:  # cut short by a kill or a full disk, or written by another program
            continue
        if isinstance(value, dict):
            found.append(value)
    return found


def append(path: Path, entries: Iterable[Mapping[str, Any]]) -> None:
    """Append a line for each entry. If the last line is incomplete, start a new line first."""
    with path.open("ab+") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 1))
        start = b"" if file.read(1) in {b"", b"\n"} else b"\n"
        file.write(start + "".join(f"{json.dumps(one)}\n" for one in entries).encode())
