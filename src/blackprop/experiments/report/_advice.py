"""Sentences on a run that needs attention, each with a way out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from blackprop.experiments.records._result import number

MOSTLY = 0.3  # of the parameters at a limit
POOR = 0.5  # residual of a surrogate
NEAR = 0.9  # of a limit
Advice = dict[str, str]  # told, todo


def advice(status: Mapping[str, Any], state: str) -> list[Advice]:
    """Return sentences on the present state of a run, each with a way out; none if all is well.

    - `status`: the content of status.json.
    - `state`: the state as the reader knows it, `killed` and `silent` among them.
    """
    found = [*_of_state(status, state), *_of_loss(status), *_of_limits(status, state)]
    layers = status.get("layers")
    for name, layer in layers.items() if isinstance(layers, Mapping) else ():
        if isinstance(layer, Mapping):
            found += _of_layer(str(name), layer)
    return [{"told": told, "todo": todo} for told, todo in found]


def _of_state(status: Mapping[str, Any], state: str) -> Iterator[tuple[str, str]]:
    if state == "killed":
        yield (
            "The process has ended without a last record: it was killed, or the machine was short of memory.",
            "Continue from the last checkpoint: `--resume` for a run of the command line.",
        )
    elif state == "silent":
        yield (
            "There has been no record for a long time, and the process runs elsewhere or hangs.",
            "Look at the process and at its device.",
        )
    elif state == "failed":
        yield f"The run has failed: {status.get('reason') or 'without a reason'}", "Correct the cause, then resume."


def _of_loss(status: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    if "loss" in status and number(status["loss"]) is None and (number(status.get("step")) or 0) > 0:
        yield "The loss is not a finite number.", "Lower the learning rates, or clip the gradients."


def _of_limits(status: Mapping[str, Any], state: str) -> Iterator[tuple[str, str]]:
    step, steps, start = (number(status.get(name)) or 0 for name in ("step", "steps", "from_step"))
    for name, pair in limits(status).items():
        spent, limit = pair
        done = step - start
        if state != "running" or not limit or spent <= 0 or done <= 0:
            continue
        left = (limit - spent) / (spent / step) if step else 0.0
        if steps > step and left < steps - step:
            yield (
                f"At this pace the {name} of the budget end at step {step + left:,.0f} of {steps:,.0f}.",
                "Choose fewer steps, a method with a lower price (`bp.plan`), or a larger budget.",
            )
        elif spent > NEAR * limit:
            yield f"{spent / limit:.0%} of the {name} of the budget are spent.", "Raise it in time, or let it end here."


def _of_layer(name: str, layer: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    limit, residual = number(layer.get("at_limit")) or 0.0, number(layer.get("residual")) or 0.0
    noise = number(layer.get("noise")) or 0.0
    called = f"Layer {name}" if name else "The layer"
    if layer.get("hopeless"):
        yield (
            f"{called}: the gradient for θ is noise; less than 0.1 % of its power is signal.",
            "Freeze θ, wrap the optimizer in `bp.optim.SignalScaled`, or take more directions.",
        )
    if limit > MOSTLY:
        yield (
            f"{called}: {limit:.0%} of θ stand at a limit of the device.",
            "Lower the learning rate of the device, or start nearer to the middle of its range.",
        )
    if residual > max(POOR, 3 * noise):
        yield (
            f"{called}: the surrogate leaves {residual:.0%} of the readings unexplained.",
            "Declare the properties of the device (`bp.characterise`), or use an estimator that queries it.",
        )
    if (used := number(layer.get("moved_rows"))) and used > NEAR * (number(layer.get("moved_allowance")) or 0.0):
        yield (
            f"{called}: the device drifts, and the rows for its recalibration are nearly used up.",
            "Steady the device, or allow its surrogate more rows.",
        )


def limits(status: Mapping[str, Any]) -> dict[str, tuple[float, float]]:
    """Return the amounts spent and their limits, of those that can be read."""
    found = {}
    entries = status.get("limits")
    for name, pair in entries.items() if isinstance(entries, Mapping) else ():
        numbers = [number(each) for each in pair] if isinstance(pair, list) and len(pair) == 2 else [None]
        if None not in numbers:
            found[str(name)] = (numbers[0] or 0.0, numbers[1] or 0.0)
    return found
