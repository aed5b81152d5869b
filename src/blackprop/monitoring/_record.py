"""The live record of a run: its present state, a history that stays small, and the warnings of the library.

| file | content |
| --- | --- |
| `status.json` | the process, its state and the reason for it, trial, step, loss, scores, costs, limits, layers |
| `live.jsonl` | lines of the schema of metrics.jsonl, at intervals that grow with the run: some 1,500 lines a day |
| `warnings.jsonl` | each different warning of the library once, with its time and step |

The state is `running`, `finished`, `stopped` or `failed`. `status.json` is replaced as a whole.
"""

from __future__ import annotations

import json
import math
import os
import time
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from blackprop.errors import ArgumentError, BlackpropWarning
from blackprop.monitoring._process import this_process

STATUS, LIVE, WARNINGS = "status.json", "live.jsonl", "warnings.jsonl"
FORMAT = "blackprop live 1"
SHARE = 0.01  # of the time, that writes may take on a slow disk
SPACING = 0.005  # of the time so far, between two lines of the history


class LiveRecord:
    """Write the live record of a run into its folder, which must exist when the first step is recorded.

    A file that cannot be written is left out with one warning: a full disk must not end a run.

    - `folder`: the run folder.
    - `every` (s, default 1): the least time between two writes.
    - `go_on` (default False): continue the history and the warnings that are there.
    """

    def __init__(self, folder: Path, every: float = 1.0, *, go_on: bool = False) -> None:
        if not every > 0:
            raise ArgumentError(f"`every` must be a positive number of seconds, got {every}")
        self.folder, self.every, self.go_on = folder, every, go_on
        self._next, self._next_line = -math.inf, -math.inf
        self.asked: float = time.monotonic()
        """When `due` was asked for last, that is, when the caller began to prepare a write."""
        self._began = time.time()
        self._state: dict[str, Any] = {"format": FORMAT, "process": this_process(), "begun": self._began}
        self._last: tuple[dict[str, Any], dict[str, Any]] | None = None
        self._written: dict[str, Any] = {}
        self._failed = False
        self._told: set[str] = set()
        self._waiting: list[dict[str, Any]] = []  # given before the record begins
        self._step = 0
        self._begun = False
        self._others: Any = None

    @property
    def due(self) -> bool:
        """Whether a write is due: one that the caller prepares and writes now takes at most 1 % of the time."""
        self.asked = time.monotonic()
        return self.asked >= self._next

    def begin(self, state: Mapping[str, Any] | None = None) -> None:
        """Write the first status, and clear the record of an earlier run."""
        self._begun = True
        if not self.go_on:
            for name in (STATUS, LIVE, WARNINGS):
                self._try(lambda name=name: (self.folder / name).unlink(missing_ok=True))
        if self._waiting:
            self._try(lambda: _append(self.folder / WARNINGS, self._waiting))
        self._save({"state": "running", "reason": "", **(state or {})})

    def write(self, state: Mapping[str, Any], line: Mapping[str, Any]) -> None:
        """Write the status, and a line of the history if one is due.

        - `state`: the entries of the status.
        - `line`: the line: method, device, seed, step, loss, scores, rows and programmings by purpose, lab seconds.
        """
        if not self._begun:
            self.begin()
        now = time.monotonic()
        self._step = int(line.get("step", 0))
        self._last = dict(state), dict(line)
        self._save({"state": "running", "reason": "", **state})
        if now >= self._next_line:
            self._line(line)
            self._next_line = now + max(self.every, SPACING * (time.time() - self._began))
        end = time.monotonic()
        self._next = end + max(self.every, (end - self.asked) / SHARE)

    def end(self, state: str, reason: str = "") -> None:
        """Write the last status and the last line: the run is `finished`, `stopped` or `failed` for this reason."""
        if not self._begun:
            return
        if self._last is not None and self._last[1] != self._written:
            self._line(self._last[1])
        self._save({**(self._last or ({}, {}))[0], "state": state, "reason": reason})

    def listen(self) -> None:
        """Record the warnings of the library too, until `leave`. They are shown as before."""
        self._others = warnings.showwarning
        warnings.showwarning = self._warned

    def leave(self) -> None:
        if self._others is not None and warnings.showwarning == self._warned:
            warnings.showwarning = self._others
        self._others = None

    def _warned(self, message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
        if issubclass(category, BlackpropWarning) and str(message) not in self._told:
            self._told.add(str(message))
            entry = {"time": time.time(), "step": self._step, "kind": category.__name__, "message": str(message)}
            if self._begun:
                self._try(lambda: _append(self.folder / WARNINGS, [entry]))
            else:
                self._waiting.append(entry)
        if self._others is not None:
            self._others(message, category, *where, **more)

    def _line(self, line: Mapping[str, Any]) -> None:
        self._written = dict(line)
        self._try(lambda: _append(self.folder / LIVE, [{**line, "time": time.time()}]))

    def _save(self, state: Mapping[str, Any]) -> None:
        content = {**self._state, "updated": time.time(), "every": self.every, **state}
        self._try(lambda: replace(self.folder / STATUS, json.dumps(finite(content)).encode()))

    def _try(self, write: Any) -> None:
        try:
            write()
        except OSError as error:
            if not self._failed and self.folder.is_dir():
                self._failed = True
                warnings.warn(
                    f"the live record in {self.folder} cannot be written ({error.strerror or error}); the run "
                    "continues, and `blackprop watch` will not show its present state",
                    BlackpropWarning,
                    stacklevel=4,
                )


def finite(value: Any) -> Any:
    """Return the value with None for numbers that are not finite, which JSON does not have."""
    if isinstance(value, Mapping):
        return {str(name): finite(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def replace(path: Path, content: bytes) -> None:
    """Replace a file as a whole, so that a reader never sees half of it."""
    aside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        aside.write_bytes(content)
        aside.replace(path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise


def _append(path: Path, entries: Iterable[Mapping[str, Any]]) -> None:
    with path.open("ab") as file:
        file.write("".join(f"{json.dumps(finite(one))}\n" for one in entries).encode())
