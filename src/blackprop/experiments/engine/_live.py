"""The live record of a run of trials, which `blackprop watch` follows."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from blackprop.core._ledger import SAVED
from blackprop.core._query import Purpose
from blackprop.experiments.engine._allowance import Allowance
from blackprop.experiments.engine._callbacks import Callback
from blackprop.experiments.records._result import PARTS, tag
from blackprop.monitoring._record import LiveRecord


class LiveCallback(Callback):
    """A callback that keeps the live record of a run in its folder; a context manager, which ends the record.

    - `path`: the run folder. It is written to once it exists.
    - `allowance` (default None): the limits of each trial.
    - `go_on` (default False): the run is resumed, and the history continues.
    - `every` (s, default 1): the least time between two writes.
    """

    def __init__(
        self, path: Path, allowance: Allowance | None = None, *, go_on: bool = False, every: float = 1.0
    ) -> None:
        self._record = LiveRecord(path, every, go_on=go_on)
        self._allowance = allowance
        self._layers: dict[str, Any] = {}
        self._trial: tuple[Any, ...] = ()
        self._from, self._begun = 0, 0.0

    def __enter__(self) -> Self:
        self._record.listen()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._record.leave()
        if error is None:
            self._record.end("finished")
        elif isinstance(error, KeyboardInterrupt):
            self._record.end("stopped", "interrupted")
        else:
            self._record.end("failed", (str(error) or type(error).__name__).splitlines()[0])

    def step(self, progress: Mapping[str, Any]) -> None:
        if (key := tag(progress)) != self._trial:
            self._trial, self._from, self._layers, self._begun = key, progress["step"] - 1, {}, time.time()
        if not self._record.due:
            return
        known = {name: progress["spent"][name] for name in SAVED if name in progress["spent"]}
        spent, trial = progress["spent"], {name: progress[name] for name in PARTS}
        done = {"step": progress["step"], "loss": progress["loss"]}
        state = {"trial": trial, **done, "steps": progress["steps"], "from_step": self._from}
        state |= {"trial_begun": self._begun}
        state |= {"scores": progress["scores"], "rows": progress["rows"], "programmings": progress["programmings"]}
        state |= {**known, "limits": self._limits(spent), "layers": self._layers}
        self._record.write(
            state, {**trial, **done, "rows": spent["rows"], "programmings": spent["programmings"], **known}
        )

    def evaluated(self, line: Mapping[str, Any]) -> None:
        self._layers = dict(line.get("layers") or {})

    def finished(self, result: Mapping[str, Any]) -> None:
        pass

    def _limits(self, spent: Mapping[str, Any]) -> dict[str, tuple[float, float]]:
        found = {}
        for name in ("rows", "programmings"):
            limit = getattr(self._allowance, name, None)
            if limit is not None:
                used = sum(count for purpose, count in spent[name].items() if purpose != Purpose.EVALUATE.value)
                found[name] = (used, limit)
        return found
