"""One implementation that follows a training, in a loop of one's own or behind the callback of a framework."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from torch import Tensor, distributed, nn

from blackprop.core._budget import Budget
from blackprop.core._ledger import SAVED
from blackprop.errors import ArgumentError, BudgetExhausted, RunFolderError
from blackprop.monitoring._health import MEASURES, health
from blackprop.monitoring._record import LiveRecord, finite, replace
from blackprop.monitoring._spending import Spending, costs

CONFIG, METRICS, SUMMARY = "config.json", "metrics.jsonl", "summary.json"
RUN_FORMAT = "blackprop run 3"
MARK = "RunMonitor"  # the class of the method in config.json, by which a folder is known as a monitor's


class RunMonitor:
    """Follow the training of a model with physical layers: write it to a run folder, and tell when to stop.

    `blackprop watch PATH` shows the folder while it grows, and `blackprop report PATH` afterwards. It holds loss,
    scores, ledger and budget, the diagnosis of each device, and the warnings of the library. Makes no queries.

    - `path`: the run folder.
    - `budget` (default None): the most that all layers may spend together, counted by their ledgers. `step` returns
      True when the next step would exceed it, or the budget of a layer. A limit that must hold within a step, too, is
      given to the layers: `PhysicalLayer(device, budget=budget)`.
    - `name` (default `"training"`): the name of the method on the pages.
    - `score` (default `"accuracy"`), `higher_is_better` (default True): the score by which runs are compared.
    - `every` (s, default 1): the least time between two writes.
    - `overwrite` (default False): replace the records of an earlier training in `path`. A resumed training, which
      begins at a later step than 0, continues them.

    In a loop:

    ```python
    monitor = RunMonitor("runs/mine", budget=Budget(rows=100_000))
    with monitor.follow(model, steps=len(loader)):
        for x, target in loader:
            optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(model(x), target)
            loss.backward()
            optimizer.step()
            if monitor.step(loss):
                break
    ```

    `lightning()` and `transformers()` return it as a callback of these frameworks. Of several processes the first one
    writes, and all stop together; each counts its own devices.

    **Raises** `ArgumentError` for a budget or a time of the wrong kind, and `RunFolderError`, when the training begins,
    for a folder that holds something else.
    """

    def __init__(
        self,
        path: Path | str,
        *,
        budget: Budget | None = None,
        name: str = "training",
        score: str = "accuracy",
        higher_is_better: bool = True,
        every: float = 1.0,
        overwrite: bool = False,
    ) -> None:
        if budget is not None and not isinstance(budget, Budget):
            raise ArgumentError(f"`RunMonitor(budget=...)` takes a Budget, got {budget!r}")
        self.path: Path = Path(path)
        self.reason: str = ""
        """Why the training was stopped; "" while it was not."""
        self.loss: float | None = None
        """The latest loss that was recorded."""
        self.recorded: int = 0
        """How many records were written."""
        self._record = LiveRecord(self.path, every)
        self._budget, self._overwrite = budget, overwrite
        self._task = {"metric": score, "higher_is_better": higher_is_better}
        self._name = name
        self._spending: Spending | None = None
        self._scores: dict[str, float] = {}
        self._line: dict[str, Any] = {}
        self._at, self._written, self._steps, self._start, self._seconds = 0, 0, 0, 0, 0.0

    def follow(self, model: nn.Module, *, step: int = 0, steps: int = 0) -> Self:
        """Begin to follow the training of `model`; for a `with` block, which ends it.

        - `step` (default 0): the number of steps made before, of a training that is resumed.
        - `steps` (default 0, unknown): the number of steps at its end.
        """
        if self._spending is not None:
            raise ArgumentError("this RunMonitor follows a training already; make another one for the second")
        self._spending = Spending(model, self._budget)
        self._at = self._start = self._written = step
        self._steps, self._seconds = steps, time.monotonic()
        self.reason, self.loss, self._scores = "", None, {}
        if _is_first():
            self._open(step)
            self._record.listen()
        return self

    @property
    def follows(self) -> bool:
        """Whether a training is followed now."""
        return self._spending is not None

    def step(self, loss: Tensor | float | None = None, **scores: float) -> bool:
        """Record a step, and return whether training should stop, since the next one would exceed a budget.

        - `loss`: of the step. A tensor is read when a write is due, so most steps do not wait for an accelerator.
        - `scores`: those evaluated at this step, such as `accuracy=0.9`.
        """
        spending = self._required()
        self._at += 1
        self.reason = _agreed(spending.stepped()) if spending.limited else ""
        if scores:
            self._scores |= {name: float(value) for name, value in scores.items()}
        if _is_first() and (self._record.due or scores or self.reason):
            self._write(loss, evaluated=bool(scores))
        return bool(self.reason)

    def evaluated(self, **scores: float) -> None:
        """Record the present state now, with the scores of an evaluation between two steps, if any."""
        self._required()
        self._scores |= {name: float(value) for name, value in scores.items()}
        if _is_first():
            self._write(None, evaluated=bool(scores))

    def end(self, error: BaseException | None = None) -> None:
        """End the record: finished, stopped at a budget, or failed by `error`. A `with` block calls it."""
        if self._spending is None:
            return
        if _is_first():
            if self._at > self._written:
                self._write(None)
            self._record.leave()
            if error is None and not self.reason:
                self._record.end("finished")
            elif error is None or isinstance(error, BudgetExhausted):
                self._record.end("stopped", self.reason or str(error))
            else:
                self._record.end("failed", f"{type(error).__name__}: {error}".splitlines()[0])
            if error is None or isinstance(error, BudgetExhausted):
                self._summary([self._result()] if self._task["metric"] in self._scores else [])
        self._spending = None

    def numbers(self) -> dict[str, float]:
        """Return the latest record as flat numbers, such as `blackprop/rows` and `blackprop/layer/2/signal`."""
        line = self._line
        totals = {name: sum(line[name].values()) for name in ("rows", "programmings") if name in line}
        flat = {f"blackprop/{name}": value for name, value in totals.items()}
        flat |= {f"blackprop/{name}": line[name] for name in SAVED if name in line}
        for name, (spent, limit) in line.get("limits", {}).items():
            flat[f"blackprop/{name}_left"] = limit - spent
        for layer, entries in line.get("layers", {}).items():
            known = {name: value for name in MEASURES if (value := entries.get(name)) is not None}
            flat |= {f"blackprop/layer/{layer}/{name}": value for name, value in known.items()}
        return {name: float(value) for name, value in flat.items() if math.isfinite(value)}

    def lightning(self) -> Any:
        """Return this as a callback of Lightning: `Trainer(callbacks=[monitor.lightning()])`.

        It writes `numbers()` to the trainer's loggers, too, and stops the trainer at a budget.

        **Raises** `ArgumentError` if Lightning is not installed.
        """
        from blackprop.monitoring._lightning import callback  # noqa: PLC0415  # imports Lightning

        return callback(self)

    def transformers(self) -> Any:
        """Return this as a callback of the Trainer of transformers: `Trainer(callbacks=[monitor.transformers()])`.

        It adds `numbers()` to the trainer's log, and stops the trainer at a budget.

        **Raises** `ArgumentError` if transformers is not installed.
        """
        from blackprop.monitoring._transformers import callback  # noqa: PLC0415  # imports transformers

        return callback(self)

    def __enter__(self) -> Self:
        self._required()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end(error)

    def _required(self) -> Spending:
        if self._spending is None:
            raise ArgumentError("this RunMonitor follows no training: call `follow(model)` first")
        return self._spending

    def _write(self, loss: Tensor | float | None, *, evaluated: bool = False) -> None:
        spending = self._required()
        if loss is not None:
            self.loss = float(loss.detach() if isinstance(loss, Tensor) else loss)
        ledger = spending.ledger()
        spent = costs(ledger)
        if not ledger.lab_seconds and ledger.measured_seconds:
            spent["lab_seconds"] = ledger.measured_seconds
        seconds = time.monotonic() - self._seconds
        line = {**self._scores, **self._key(), "step": self._at, "epoch": 0, "loss": self.loss}
        line |= {**spent, "seconds": seconds, "layers": health(spending.layers)}
        state = {"trial": self._key(), "step": self._at, "steps": self._steps, "from_step": self._start}
        totals = {name: sum(spent[name].values()) for name in ("rows", "programmings")}
        state |= {"loss": line["loss"], "scores": self._scores, **spent, **totals, "seconds": seconds}
        state |= {"limits": spending.limits(), "layers": line["layers"]}
        self._line = {**line, "limits": state["limits"]}
        self._record.write(state, {name: value for name, value in line.items() if name not in self._scores})
        self.recorded, self._written = self.recorded + 1, self._at
        if evaluated:
            with (self.path / METRICS).open("a", encoding="utf-8") as file:
                file.write(json.dumps(finite(line)) + "\n")

    def _key(self) -> dict[str, Any]:
        devices = dict.fromkeys(
            layer.device.declaration.name.partition("(")[0] for layer in self._required().layers.values()
        )
        return {"method": self._name, "device": ", ".join(devices) or "none", "seed": 0}

    def _open(self, step: int) -> None:
        config = self.path / CONFIG
        occupied = self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir()))
        if occupied and not _is_monitors(config):
            raise RunFolderError(f"{self.path} is not the folder of a RunMonitor: choose another one")
        if occupied and not step and not self._overwrite:
            raise RunFolderError(
                f"{self.path} holds an earlier training: choose another folder, or `RunMonitor(..., overwrite=True)`"
            )
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            method = {self._name: {"class": MARK, "name": self._name}}
            told = {"task": "training", "settings": {}, "methods": method, "devices": [self._key()["device"]]}
            replace(config, (json.dumps({"format": RUN_FORMAT, **told, "seeds": [0]}, indent=2) + "\n").encode())
            if not step:
                (self.path / METRICS).write_bytes(b"")
            self._summary([])
        except OSError as error:
            raise RunFolderError(f"{self.path}: {error.strerror or error}") from error
        self._record.go_on = bool(step)
        self._record.begin({"trial": self._key(), "step": step, "steps": self._steps})

    def _result(self) -> dict[str, Any]:
        entries = ("rows", "programmings", *SAVED)
        done = {"steps": self._at, **{name: self._line[name] for name in entries if name in self._line}}
        return {"task": "training", "network": None, **self._key(), **self._task, **self._scores, **done}

    def _summary(self, results: list[Mapping[str, Any]]) -> None:
        content = {"task": "training", "network": None, **self._task, "results": finite(results)}
        replace(self.path / SUMMARY, (json.dumps(content, indent=2) + "\n").encode())


def _is_monitors(config: Path) -> bool:
    try:
        found = json.loads(config.read_text())["methods"].values()
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        return False
    return any(isinstance(method, dict) and method.get("class") == MARK for method in found)


def _is_first() -> bool:
    """Whether this is the process that writes."""
    return not (distributed.is_available() and distributed.is_initialized()) or distributed.get_rank() == 0


def _agreed(reason: str) -> str:
    """The reason of this process, or of any other one with which it trains: they must stop together."""
    if not (distributed.is_available() and distributed.is_initialized()) or distributed.get_world_size() == 1:
        return reason
    reasons: list[str] = [""] * distributed.get_world_size()
    distributed.all_gather_object(reasons, reason)
    return next((each for each in reasons if each), "")
