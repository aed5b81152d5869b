"""The state of a trial: its steps, loss and scores, and the lines and the result that report them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from torch import nn

from blackprop.core._ledger import Ledger
from blackprop.experiments.engine._bill import Bill, moves_theta
from blackprop.experiments.engine._execution import Workers
from blackprop.experiments.engine._trial import Trial
from blackprop.experiments.records._result import gap
from blackprop.nn._layer import PhysicalLayer
from blackprop.nn._substitute import ledger
from blackprop.planning import AskFirst

Layers = Mapping[str, PhysicalLayer]


class Standing:
    """The numbers of a running trial."""

    def __init__(self, trial: Trial, planned_steps: int) -> None:
        self.trial, self.planned_steps = trial, planned_steps
        self.steps, self.seconds = 0, 0.0
        self.loss: float | None = None
        self.scores: dict[str, float] = {}
        self.layers: dict[str, dict[str, float | None]] = {}
        """The diagnosis of each device after the last segment, by its name in the model."""

    @property
    def score(self) -> float:
        """The score by which methods are compared; NaN before the first evaluation."""
        return self.scores.get(self.trial.task.objective.metric, float("nan"))

    def progress(self, model: nn.Module, loss: float, steps: int) -> dict[str, Any]:
        """Return the progress that callbacks receive after a step."""
        spent = ledger(model)
        at = {"step": self.steps, "steps": max(steps, self.steps)}
        cost = {"rows": spent.total_rows, "programmings": spent.total_programmings, "spent": spent.state_dict()}
        health = {"cosine": self._lowest("oracle_cosine"), "snr": self._lowest("snr")}
        return {**self.trial.key, **at, "loss": loss, "scores": self.scores, **cost, **health}

    def line(
        self,
        devices: Layers,
        workers: Workers,
        rates: dict[str, float],
        per_epoch: int,
        ends: tuple[float, float] | None,
    ) -> dict[str, Any]:
        """Return the line of metrics.jsonl. Counts and seconds are of the whole trial so far. The gap closed refers to
        `ends` (frozen, oracle), and is None if they are unknown.
        """
        done = {"epoch": self.steps / per_epoch, "step": self.steps, "loss": self.loss, **self.scores}
        health = {"gap_closed": gap(self.score, ends), "rates": rates, "layers": self.layers}
        return {**self.trial.key, **done, **self._bill(devices, workers), "seconds": self.seconds, **health}

    def result(self, devices: Layers, workers: Workers) -> dict[str, Any]:
        """Return the result (see `records._result`)."""
        allowance = self.trial.allowance
        return {
            **names(self.trial),
            "allowance": None if allowance is None else asdict(allowance),
            **self.scores,
            "gap_closed": None,
            "steps": self.steps,
            "planned_steps": self.planned_steps,
            **self._bill(devices, workers),
            **({"found": found} if (found := findings(devices)) else {}),
        }

    def state(self) -> dict[str, Any]:
        """Return the state for a checkpoint."""
        return {
            "step": self.steps,
            "loss": self.loss,
            "seconds": self.seconds,
            "scores": self.scores,
            "layers": self.layers,
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Restore the state returned by `state`."""
        self.steps, self.seconds = int(state["step"]), float(state["seconds"])
        self.loss = None if state["loss"] is None else float(state["loss"])
        self.scores, self.layers = dict(state["scores"]), dict(state["layers"])

    def _bill(self, devices: Layers, workers: Workers) -> dict[str, Any]:
        """Return the costs of all processes together."""
        own = [(layer.ledger.state_dict(), moves_theta(layer)) for layer in devices.values()]
        everyone = [entry for process in workers.gather(own) for entry in process]
        return Bill.of([(_ledger(state), trained) for state, trained in everyone], self.steps).plain()

    def _lowest(self, name: str) -> float | None:
        """Return the lowest value over the devices after the last segment."""
        found = [value for layer in self.layers.values() if (value := layer.get(name)) is not None]
        return min(found, default=None)


def findings(devices: Layers) -> dict[str, str]:
    """Return the family found and the method chosen for each device that was asked first, by its name in the model."""
    surrogates = {name: layer.surrogate for name, layer in devices.items()}
    return {
        name: f"{each.finding}; chosen: {each.chosen}"
        for name, each in surrogates.items()
        if isinstance(each, AskFirst) and each.finding is not None
    }


def names(trial: Trial) -> dict[str, Any]:
    """Return the names that identify the trial and the score of a result."""
    network = getattr(trial.task, "network", None)
    return {
        "task": trial.task.name,
        "network": getattr(network, "value", network),
        **trial.key,
        "metric": trial.task.objective.metric,
    }


def _ledger(state: Mapping[str, Any]) -> Ledger:
    found = Ledger()
    found.load_state_dict(state)
    return found
