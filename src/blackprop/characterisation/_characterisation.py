"""The result of a characterisation, and its formats."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from blackprop.characterisation._conclusion import Conclusion, conclude
from blackprop.characterisation._findings import Finding
from blackprop.characterisation._page import page
from blackprop.core._declaration import Declaration
from blackprop.core._ledger import Ledger
from blackprop.devices import Declared


@dataclass(frozen=True)
class Characterisation:
    """The result of a characterisation.

    **Attributes:**

    - `findings`: by name.
    - `diagnoses`: faults of the device, in sentences; empty for a sound one.
    - `declaration`: the established properties; open questions have their safe value.
    - `device`: the device with that declaration, ready for `bp.PhysicalLayer` and `bp.plan`.
    - `step` (units of θ): a useful step for differences.
    - `ledger`: the cost.
    - `curves`: the points of the plots.
    - `tap_gains` (K,): of the power taps, over their nominal ones; None where they were not told apart.
    """

    findings: dict[str, Finding]
    diagnoses: tuple[str, ...]
    device: Declared
    step: float
    ledger: Ledger
    curves: dict[str, Any] = field(default_factory=dict, repr=False)
    tap_gains: Tensor | None = field(default=None, repr=False)

    @property
    def declaration(self) -> Declaration:
        return self.device.declaration

    def __getitem__(self, name: str) -> Finding:
        return self.findings[name]

    @property
    def conclusion(self) -> Conclusion:
        """The consequences of the findings."""
        return conclude(self.findings, self.diagnoses, self.device, self.tap_gains)

    def __str__(self) -> str:
        lines = [f"{self.device.device}", *(f"WRONG: {diagnosis}" for diagnosis in self.diagnoses), ""]
        lines += [str(self.conclusion), "", *(str(finding) for finding in self.findings.values())]
        lines += ["", "what it cost", repr(self.ledger)]
        return "\n".join(lines)

    def to_json(self) -> str:
        """Return all results as JSON (numbers that are not finite as null)."""
        return json.dumps(_finite(self.document()), ensure_ascii=False)

    def document(self) -> dict[str, Any]:
        spec, conclusion = self.declaration, self.conclusion
        return {
            "device": str(self.device.device),
            "conclusion": {"first": list(conclusion.advice), "line": conclusion.line, "plan": conclusion.plan},
            "diagnoses": list(self.diagnoses),
            "findings": {name: vars(finding) for name, finding in self.findings.items()},
            "declaration": {
                "linear": spec.linear,
                "coupling": spec.coupling.value,
                "noise": spec.noise,
                "period": spec.theta.period,
                "harmonics": spec.theta.harmonics,
                "cost": [spec.cost.programming, spec.cost.row],
                "tap_gains": None if self.tap_gains is None else self.tap_gains.tolist(),
                "order": None if self.device.order is None else self.device.order.tolist(),
            },
            "step": self.step,
            "ledger": self.ledger.state_dict(),
            "curves": self.curves,
        }

    def save(self, folder: str | Path) -> str:
        """Write report.txt, report.json and report.html into `folder`; return a sentence that says so."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "report.txt").write_text(f"{self}\n", encoding="utf-8")
        (folder / "report.json").write_text(self.to_json() + "\n", encoding="utf-8")
        (folder / "report.html").write_text(page(_finite(self.document()), str(self)), encoding="utf-8")
        return f"report.txt, report.json and report.html are in {folder}"


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
