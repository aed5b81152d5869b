"""Who is told how a run goes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol


class Watch(Protocol):
    def step(self, progress: Mapping[str, Any]) -> None:
        """After every optimizer step: the cell, the step of how many, the loss, what was spent."""
        ...

    def evaluated(self, line: Mapping[str, Any]) -> None:
        """After every evaluation: the line of metrics.jsonl."""
        ...

    def finished(self, result: Mapping[str, Any]) -> None:
        """After a cell: its entry of summary.json."""
        ...


@dataclass(frozen=True)
class Watches:
    """All of them are told; with none, nobody is."""

    all: tuple[Watch, ...] = ()

    def step(self, progress: Mapping[str, Any]) -> None:
        for one in self.all:
            one.step(progress)

    def evaluated(self, line: Mapping[str, Any]) -> None:
        for one in self.all:
            one.evaluated(line)

    def finished(self, result: Mapping[str, Any]) -> None:
        for one in self.all:
            one.finished(result)
