"""Callbacks: they are told how a trial goes on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol


class Callback(Protocol):
    """Told of every step, every evaluation and every result. Each argument is a mapping that JSON takes."""

    def step(self, progress: Mapping[str, Any]) -> None:
        """After every optimizer step: the trial's key, the step of how many, the loss, the rows and programmings."""
        ...

    def evaluated(self, line: Mapping[str, Any]) -> None:
        """After every evaluation: the line of metrics.jsonl."""
        ...

    def finished(self, result: Mapping[str, Any]) -> None:
        """After a trial: its result, as summary.json and results.jsonl hold it."""
        ...


@dataclass(frozen=True)
class Callbacks:
    """Several callbacks as one, called in order; none by default."""

    all: tuple[Callback, ...] = ()

    def step(self, progress: Mapping[str, Any]) -> None:
        for one in self.all:
            one.step(progress)

    def evaluated(self, line: Mapping[str, Any]) -> None:
        for one in self.all:
            one.evaluated(line)

    def finished(self, result: Mapping[str, Any]) -> None:
        for one in self.all:
            one.finished(result)


SILENT = Callbacks()
