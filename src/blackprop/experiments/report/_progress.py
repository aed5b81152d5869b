"""One live line while a run goes on; one plain line a result where there is no terminal to redraw."""

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
    """Told of every step and every result; a context manager, so that the live line is closed whatever happens.

    Of several `trials`, those that are `finished` left out, it tells which one is at work and how much time is left.
    Meanwhile the library's warnings are lines of their own, each with the run that it is about.
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
    """Where a run stands, within 100 columns."""
    return (
        f"{_named(progress)}  step {progress['step']}/{progress['steps']}  loss {progress['loss']:.3f}  "
        f"{scores(progress['scores'])}{_health(progress)}{progress['rows']:,} rows  "
        f"{progress['programmings']:,} programmings"
    )


def _health(progress: Mapping[str, Any]) -> str:
    """The worst θ-gradient's cosine to the oracle's, and its signal over its noise, as far as they are known."""
    known = [(short, progress.get(name)) for short, name in (("cos", "cosine"), ("snr", "snr"))]
    return "".join(f"{short} {value:.2g}  " for short, value in known if value is not None)


def result_line(result: Mapping[str, Any]) -> str:
    """The score and cost of a finished run."""
    rows, programmings = (sum(result[count].values()) for count in ("rows", "programmings"))
    return f"{_named(result)}  {scores(result)}{rows:,} rows  {programmings:,} programmings"


def scores(entry: Mapping[str, Any]) -> str:
    """The score that methods are compared by, as far as there is one yet."""
    if "accuracy" in entry:
        return f"accuracy {entry['accuracy']:.1%}  "
    return f"validation loss {entry['validation_loss']:.3f}  " if "validation_loss" in entry else ""


def _named(entry: Mapping[str, Any]) -> str:
    return f"{entry['method']}  {entry['device']}  seed {entry['seed']}"
