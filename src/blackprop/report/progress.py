"""One live line while a run goes on; one plain line a result where there is no terminal to redraw."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.text import Text


class Progress:
    """Told of every step and every result; a context manager, so that the live line is closed whatever happens."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._live = Live(console=console, refresh_per_second=4, transient=True) if console.is_terminal else None

    def __enter__(self) -> Progress:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *raised: object) -> None:
        if self._live is not None:
            self._live.stop()

    def step(self, progress: Mapping[str, Any]) -> None:
        if self._live is not None:
            self._live.update(Text(step_line(progress), no_wrap=True, overflow="ellipsis"))

    def finished(self, result: Mapping[str, Any]) -> None:
        self.console.print(result_line(result), highlight=False, soft_wrap=True)


def step_line(progress: Mapping[str, Any]) -> str:
    """Where a run stands, within 100 columns."""
    return (
        f"{_cell(progress)}  epoch {progress['epoch'] + 1}/{progress['epochs']}  loss {progress['loss']:.3f}  "
        f"accuracy {progress['accuracy']:.1%}  {progress['rows']:,} rows  {progress['programmings']:,} programmings"
    )


def result_line(result: Mapping[str, Any]) -> str:
    """What a finished run came to."""
    rows, programmings = (sum(result[count].values()) for count in ("rows", "programmings"))
    return (
        f"{_cell(result)}  accuracy {result['accuracy']:.1%}  {rows:,} rows  {programmings:,} programmings  "
        f"{result['seconds']:.1f} s"
    )


def _cell(entry: Mapping[str, Any]) -> str:
    return f"{entry['method']}  {entry['device']}  seed {entry['seed']}"
