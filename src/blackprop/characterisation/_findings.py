"""Single findings about a device, and their wording."""

from __future__ import annotations

from dataclasses import dataclass

from blackprop.core._declaration import Coupling

Value = bool | float | str | None


@dataclass(frozen=True)
class Finding:
    """One question and its answer.

    **Arguments:**

    - `value`: as in a declaration; the safe value if not `known`.
    - `confidence` (default 0): the probability that a fault which shows in one check of twenty would have been seen, `1
      − 0.95^checks`; 0 if not known.
    - `error` (default None): the standard error of a number.
    - `evidence`: the observation, in a sentence.
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
    """Return the confidence of an answer in words."""
    if not finding.known:
        return ""
    return "  (over 99 % sure)" if finding.confidence > 0.99 else f"  ({100 * finding.confidence:.0f} % sure)"


def unknown(name: str, why: str, value: Value = None) -> Finding:
    """Return a question that stays open; `value` is its safe declaration."""
    return Finding(name, value, known=False, evidence=why)


def sure(checks: float) -> float:
    """Return the probability that a fault which shows in one check of twenty is seen in this many independent ones."""
    return 1 - 0.95**checks


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
