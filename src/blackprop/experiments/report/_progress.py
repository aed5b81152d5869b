"""The progress of a run: a live line on a terminal, and one plain line per result elsewhere."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.text import Text

from blackprop.errors import BlackpropWarning
from blackprop.experiments.report._time_left import TimeLeft


class Progress:
    """A callback that shows every step and result. It is a context manager, which always closes the live line.

    With several `trials`, of which some are `finished`, it shows the number of the current one and the time left.
    Warnings of the library are separate lines with the name of their run.
    """

    def __init__(
        self, console: Console, trials: Sequence[Mapping[str, Any]] = (), finished: Sequence[Mapping[str, Any]] = ()
    ) -> None:
        self.console = console
        self._time = TimeLeft(trials, finished)
        self._live = Live(console=console, refresh_per_second=4, transient=True) if console.is_terminal else None
        self._until_exit = ExitStack()
        self._run = ""

    def __enter__(self) -> Progress:
        self._until_exit.enter_context(warnings.catch_warnings())
        warnings.simplefilter("always", BlackpropWarning)
        warnings.showwarning, self._others = self._warned, warnings.showwarning
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *raised: object) -> None:
        if self._live is not None:
            self._live.stop()
        self._until_exit.close()

    def _warned(self, message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
        if issubclass(category, BlackpropWarning):
            self.console.print(f"warning: {self._run}: {message}", highlight=False, soft_wrap=True)
        else:
            self._others(message, category, *where, **more)

    def step(self, progress: Mapping[str, Any]) -> None:
        self._run = _named(progress)
        self._time.step(progress)
        if self._live is not None:
            line = f"{self._time.place()}{self._time.left()}{step_line(progress)}"
            self._live.update(Text(line, no_wrap=True, overflow="ellipsis"))

    def evaluated(self, line: Mapping[str, Any]) -> None:
        pass

    def finished(self, result: Mapping[str, Any]) -> None:
        place = self._time.place()
        self._time.finished(result)
        self.console.print(f"{place}{result_line(result)}{self._time.left()}", highlight=False, soft_wrap=True)


def step_line(progress: Mapping[str, Any]) -> str:
    """Return the state of a run in at most 100 columns."""
    return (
        f"{_named(progress)}  step {progress['step']}/{progress['steps']}  loss {progress['loss']:.3f}  "
        f"{scores(progress['scores'])}{_health(progress)}{progress['rows']:,} rows  "
        f"{progress['programmings']:,} programmings"
    )


def _health(progress: Mapping[str, Any]) -> str:
    """Return the worst cosine between θ-gradient and oracle, and the worst signal to noise ratio, if known."""
    known = [(short, progress.get(name)) for short, name in (("cos", "cosine"), ("snr", "snr"))]
    return "".join(f"{short} {value:.2g}  " for short, value in known if value is not None)


def result_line(result: Mapping[str, Any]) -> str:
    """Return the score and cost of a finished run."""
    rows, programmings = (sum(result[count].values()) for count in ("rows", "programmings"))
    return f"{_named(result)}  {scores(result)}{rows:,} rows  {programmings:,} programmings"


def scores(entry: Mapping[str, Any]) -> str:
    """Return the score by which methods are compared, if there is one yet."""
    if "accuracy" in entry:
        return f"accuracy {entry['accuracy']:.1%}  "
    return f"validation loss {entry['validation_loss']:.3f}  " if "validation_loss" in entry else ""


def _named(entry: Mapping[str, Any]) -> str:
    return f"{entry['method']}  {entry['device']}  seed {entry['seed']}"
