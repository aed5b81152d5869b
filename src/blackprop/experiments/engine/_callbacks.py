"""Callbacks, which follow the progress of a trial."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol


class Callback(Protocol):
    """Follow every step, evaluation and result. Each argument is a mapping of JSON-compatible values.

    A subclass may override some of the methods.

    ```python
    class Print(Callback):
        def evaluated(self, line):
            print(line["step"], line["accuracy"])

    train(trial, callback=Print())
    ```
    """

    def step(self, progress: Mapping[str, Any]) -> None:
        """Follow an optimizer step: the trial's key, the step and the total, the loss, the rows and programmings.

        `spent` holds the rows and programmings by purpose, and the lab time.
        """

    def evaluated(self, line: Mapping[str, Any]) -> None:
        """Follow an evaluation: the line of metrics.jsonl."""

    def finished(self, result: Mapping[str, Any]) -> None:
        """Follow the end of a trial: its result, as in summary.json and results.jsonl."""


@dataclass(frozen=True)
class Callbacks:
    """Call several callbacks in order; none by default."""

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
