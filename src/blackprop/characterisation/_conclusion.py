"""The consequences of the findings: the declaration, the method of a layer, and the line to paste."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from blackprop.characterisation._findings import Finding
from blackprop.core._declaration import Cost
from blackprop.core.capabilities._pulse import Pulse
from blackprop.devices import Declared
from blackprop.planning._plan import choose

INLINE = 64  # parameters whose order is written out; a longer one is read from report.json


@dataclass(frozen=True)
class Conclusion:
    """Faults to correct first, in sentences; the method of a layer; and the lines to paste."""

    advice: tuple[str, ...]
    plan: str
    line: str

    def __str__(self) -> str:
        indented = self.line.replace("\n", f"\n{'':12}")
        return "\n".join(
            [
                *(f"{'first':<12}{each}" for each in self.advice),
                f"{'declare':<12}{indented}",
                f"{'plan':<12}{self.plan}",
            ]
        )


def conclude(
    findings: Mapping[str, Finding], diagnoses: tuple[str, ...], device: Declared, gains: Tensor | None = None
) -> Conclusion:
    """Return the declaration of `device` as a line of code, its plan, and the faults to correct first."""
    advice = [f"mend this: {diagnosis}" for diagnosis in diagnoses]
    dark = findings["dark level"].value
    if findings["affine"].value is True and isinstance(dark, float) and dark > 0:
        advice.append(
            f"subtract from the readings, in `read`, what is read where nothing is sent ({dark:.4g} on the mean), and "
            "characterise again: the device is then linear"
        )
    period = findings["period in x"]
    if isinstance(period.value, float) and period.known:
        advice.append(
            f"keep the inputs within one period, {period.value:.5g}: beyond, rows that differ are answered alike"
        )
    if findings["reciprocal"].value is False:
        advice.append(
            "train without `ReadBack`, which is declared and does not hold: a part along the way is not reciprocal, or "
            "a port is scaled in one direction only"
        )
    chosen = choose(device.declaration)
    line = _line(device, findings["reciprocal"].value is False)
    if gains is not None:
        line = f"{line}\n{_estimator(gains)}"
    return Conclusion(tuple(advice), f"{chosen.name}: {chosen.reason(device.declaration)}", line)


def _line(device: Declared, one_way: bool) -> str:
    """Return code that turns `device` into the device that was found; it expects `bp` and `torch`."""
    spec = device.declaration
    parts = [f"linear={spec.linear}", f"coupling=bp.Coupling.{spec.coupling.name}", f"noise={spec.noise!r}"]
    parts.append(f"period={spec.theta.period!r}")
    if spec.theta.harmonics is not None:
        parts.append(f"harmonics={spec.theta.harmonics}")
    if spec.cost != device.device.cost:
        parts.append(_cost(spec.cost))
    if one_way:
        parts.append("without=[bp.core.ReadBack]")
    if spec.has(Pulse) and spec.capability(Pulse) != device.device.declaration.capability(Pulse):
        parts.append(f"capabilities=[bp.core.{spec.capability(Pulse)!r}]")
    before = ""
    if device.order is not None:
        before, order = _order(device.order)
        parts.append(f"order={order}")
    return f"{before}device = bp.devices.Declared(device, {', '.join(parts)})"


def _estimator(gains: Tensor) -> str:
    """Return code that makes the estimator that knows the gains of the taps."""
    if len(gains) <= INLINE:
        return f"estimator = bp.estimators.InSitu(gains={[round(gain, 4) for gain in gains.tolist()]})"
    saved = 'json.loads(pathlib.Path("report.json").read_text())["declaration"]["tap_gains"]'
    return f"import json, pathlib\nestimator = bp.estimators.InSitu(gains={saved})"


def _cost(cost: Cost) -> str:
    actions = f", actions={dict(cost.actions)!r}" if cost.actions else ""
    energy = f", energy=bp.{cost.energy!r}" if cost.energy is not None else ""
    return f"cost=bp.Cost(programming={cost.programming!r}, row={cost.row!r}{actions}{energy})"


def _order(order: Tensor) -> tuple[str, str]:
    if len(order) <= INLINE:
        return "", f"torch.tensor({order.tolist()})"
    saved = 'json.loads(pathlib.Path("report.json").read_text())["declaration"]["order"]'
    return f"import json, pathlib\norder = torch.tensor({saved})\n", "order"
