"""The report of a deployment."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import nn

from blackprop.core._ledger import Ledger
from blackprop.deployment._file import save
from blackprop.deployment._judge import Score


@dataclass(frozen=True)
class StageReport:
    """One stage: whether it was kept, the scores before and after it, and its cost with that of its evaluation.

    - `after`: None for a stage that was not tried.
    - `rows`, `programmings`, `seconds` (s): of all devices; the time by their `Cost`, or by the clock where they
      declare none.
    - `note`: the parts it changed, or the reason why it was not tried.
    """

    name: str
    kept: bool
    before: Score
    after: Score | None
    rows: int
    programmings: int
    seconds: float
    note: str


@dataclass(frozen=True, eq=False)
class Deployment:
    """A model on its devices, and the stages by which it got there.

    - `model`: the deployed model, in the modes of the trained one. It can be trained further.
    - `stages`: a `StageReport` each.
    - `trained`: the score of the trained model on the held-out rows.
    - `ledger`: the queries of all stages.
    """

    model: nn.Module
    stages: tuple[StageReport, ...]
    trained: Score
    ledger: Ledger

    @property
    def before(self) -> Score:
        """The score of the settings as they were trained."""
        return self.stages[0].before

    @property
    def after(self) -> Score:
        """The score of the deployed model."""
        kept = [stage.after for stage in self.stages if stage.kept and stage.after is not None]
        return kept[-1]

    def save(self, folder: str | Path) -> Path:
        """Write `settings.safetensors` and `deployment.json` into the folder, which is made; returns it.

        `bp.deployment.load(folder, model, devices)` reads them on another machine. An earlier deployment in the folder
        is replaced.
        """
        return save(self.model, self.plain(), Path(folder))

    def plain(self) -> dict[str, object]:
        """The report as numbers and strings."""
        return {
            "trained": _plain(self.trained),
            "stages": [
                {
                    "name": stage.name,
                    "kept": stage.kept,
                    "before": _plain(stage.before),
                    "after": None if stage.after is None else _plain(stage.after),
                    "rows": stage.rows,
                    "programmings": stage.programmings,
                    "seconds": stage.seconds,
                    "note": stage.note,
                }
                for stage in self.stages
            ],
        }

    def __repr__(self) -> str:
        lines = [f"{'stage':12} {'':9} {'before':>16} {'after':>16} {'rows':>9} {'program.':>9} {'seconds':>9}"]
        for stage in self.stages:
            verdict = "kept" if stage.kept else "left" if stage.after is None else "undone"
            after = "" if stage.after is None else str(stage.after)
            cost = f"{stage.rows:>9,} {stage.programmings:>9,} {stage.seconds:>9.3g}"
            lines.append(f"{stage.name:12} {verdict:9} {stage.before!s:>16} {after:>16} {cost}  {stage.note}")
        return "\n".join([*lines, f"trained model {self.trained}, deployed {self.after}"])


def _plain(score: Score) -> dict[str, float | None]:
    return {"loss": score.loss, "accuracy": score.accuracy}
