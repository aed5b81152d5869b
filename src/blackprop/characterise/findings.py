"""What was found out about a device: single findings, the whole of them, and the forms they are told in."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from blackprop.characterise.page import page
from blackprop.declaration import Coupling, Declaration
from blackprop.devices import Declared
from blackprop.ledger import Ledger

Value = bool | float | str | None


@dataclass(frozen=True)
class Finding:
    """One question and its answer.

    **Arguments:** `value`, in the words of a declaration; where not `known`, the safe one; `confidence`, the chance
    that a fault which shows in one check of twenty would have been seen, `1 − 0.95^checks`, 0 where not known;
    `error`, the standard error of a number; `evidence`, what was seen, in a sentence.
    """

    name: str
    value: Value
    known: bool
    evidence: str
    confidence: float = 0.0
    error: float | None = None

    def __str__(self) -> str:
        shown = plainly(self.value) if self.known else "unknown"
        error = f" ± {self.error:.1g}" if self.known and self.error is not None else ""
        return f"{self.name:<12}{shown}{error}{trust(self)}\n{'':12}{self.evidence}"


def trust(finding: Finding) -> str:
    """How sure an answer is, in words."""
    if not finding.known:
        return ""
    return "  (over 99 % sure)" if finding.confidence > 0.99 else f"  ({100 * finding.confidence:.0f} % sure)"


def unknown(name: str, why: str, value: Value = None) -> Finding:
    """A question that stays open; `value` is the safe thing to declare."""
    return Finding(name, value, known=False, evidence=why)


def sure(checks: float) -> float:
    """The chance that a fault which shows in one check of twenty is seen in so many independent ones."""
    return 1 - 0.95**checks


@dataclass(frozen=True)
class Characterisation:
    """A device as it was found.

    **Attributes:** `findings`, by name; `diagnoses`, what is wrong with the device, in sentences, empty for a sound
    one; `declaration`, what may be claimed of it: where a question stayed open, the value that claims nothing;
    `device`, the device so declared, ready for `bp.PhysicalLayer` and `bp.plan`; `step`, a useful step for
    differences, in θ's units; `ledger`, what it cost; `curves`, the points of the plots.
    """

    findings: dict[str, Finding]
    diagnoses: tuple[str, ...]
    device: Declared
    step: float
    ledger: Ledger
    curves: dict[str, Any] = field(default_factory=dict, repr=False)

    @property
    def declaration(self) -> Declaration:
        return self.device.declaration

    def __getitem__(self, name: str) -> Finding:
        return self.findings[name]

    def __str__(self) -> str:
        spec = self.declaration
        lines = [f"{self.device.device}", *(f"WRONG: {diagnosis}" for diagnosis in self.diagnoses), ""]
        lines += [str(finding) for finding in self.findings.values()]
        lines += ["", f"declared    {declared(spec)}", "", "what it cost", repr(self.ledger)]
        return "\n".join(lines)

    def to_json(self) -> str:
        """Everything, as JSON (numbers that are not finite as null)."""
        return json.dumps(_finite(self.document()), ensure_ascii=False)

    def document(self) -> dict[str, Any]:
        spec = self.declaration
        return {
            "device": str(self.device.device),
            "diagnoses": list(self.diagnoses),
            "findings": {name: vars(finding) for name, finding in self.findings.items()},
            "declaration": {
                "linear": spec.linear,
                "coupling": spec.coupling.value,
                "noise": spec.noise,
                "period": spec.theta.period,
                "order": None if self.device.order is None else self.device.order.tolist(),
            },
            "step": self.step,
            "ledger": self.ledger.state_dict(),
            "curves": self.curves,
        }

    def save(self, folder: str | Path) -> str:
        """Write report.txt, report.json and report.html into `folder`; returns a sentence that says what was written.

        The page needs Plotly, the extra `report`; without it the other two are written and the sentence says so.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "report.txt").write_text(f"{self}\n", encoding="utf-8")
        (folder / "report.json").write_text(self.to_json() + "\n", encoding="utf-8")
        html = page(_finite(self.document()), str(self))
        if html is None:
            return (
                f"report.txt and report.json are in {folder}; for the page with plots: pip install 'blackprop[report]'"
            )
        (folder / "report.html").write_text(html, encoding="utf-8")
        return f"report.txt, report.json and report.html are in {folder}"


def declared(spec: Declaration) -> str:
    """A declaration in a line, as it would be written."""
    period = "None" if spec.theta.period is None else f"{spec.theta.period:.6g}"
    return f"linear={spec.linear}, coupling=Coupling.{spec.coupling.name}, noise={spec.noise:.3g}, period={period}"


def plainly(value: Value) -> str:
    match value:
        case None:
            return "none"
        case bool():
            return "yes" if value else "no"
        case float() | int():
            return f"{value:.4g}"
        case _:
            return value


def coupling_of(finding: Finding | None) -> Coupling:
    return Coupling(finding.value) if finding is not None and finding.known else Coupling.NONE


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
