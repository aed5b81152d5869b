"""Files of JSON, one object a line, that are appended to: what is damaged in them is passed over."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any


def parsed(text: str | bytes) -> Any:
    """The JSON value in `text`; raises `ValueError` for anything else, too deep a nesting included."""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def read(path: Path) -> list[dict[str, Any]]:
    """The objects of the file's whole lines, none where there is no file. Raises `OSError` where it cannot be read."""
    found = []
    for line in path.read_bytes().split(b"\n") if path.exists() else ():
        try:
            value = parsed(line)
        except ValueError:  # cut short by a kill or a full disk, or none of ours
            continue
        if isinstance(value, dict):
            found.append(value)
    return found


def append(path: Path, entries: Iterable[Mapping[str, Any]]) -> None:
    """Add a line for each entry; where the last line was cut short, it is ended first."""
    with path.open("ab+") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 1))
        start = b"" if file.read(1) in {b"", b"\n"} else b"\n"
        file.write(start + "".join(f"{json.dumps(one)}\n" for one in entries).encode())
