"""From a trained model to given devices, stage by stage, each kept only where held-out rows say that it helps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from blackprop.core._budget import Budget
from blackprop.core._ledger import Ledger
from blackprop.core._probes import within
from blackprop.core._procedure import read
from blackprop.core._query import Purpose, Query
from blackprop.deployment._judge import Judge, Judgement, RowLoss, Score
from blackprop.deployment._layers import Placed, Snapshot, evaluating, met, named, placed_on, with_own_methods
from blackprop.deployment._report import Deployment, StageReport
from blackprop.deployment._stages import STAGES, NotTriedError, Work
from blackprop.devices import Device
from blackprop.errors import ArgumentError, BudgetExhausted
from blackprop.nn import PhysicalLayer, ledger

LEAST = 16  # rows that a layer is fitted to, and at least twice its inputs
RANDOM = 96  # rows for each layer where there is no data


def deploy(
    model: nn.Module,
    devices: Device | Sequence[Device] | Mapping[str, Device],
    data: Tensor | tuple[Tensor, Tensor] | None = None,
    *,
    budget: Budget | None = None,
    steps: int = 10,
    calibrate: bool | None = None,
    loss: RowLoss | None = None,
    seed: int = 0,
) -> Deployment:
    """Carry a trained model to devices, in stages, and report the loss before and after each and its cost.

    1. *written*: settings and gains as they were trained.
    2. *ports*: a digital gain for each input and output of a device, `PortGains`.
    3. *scales*: the gain of each layer, and the statistics of batch norms.
    4. *calibration*: response curves (`conversion.ByResponse`) or the design of a chip (`twins.CalibratedChip`),
       where the readings of a layer differ from the trained model's by more than half.
    5. *steps*: up to `steps` times, the errors of each device are fitted to its readings, and the setting moves to
       where the trained model's device with these errors gives the trained outputs.

    A stage is kept if the held-out rows, the second half of the data, have a lower loss by more than two standard
    errors of the difference, or are as much closer to the trained model's output at a loss that is not higher; else
    it is undone. The trained model is not changed; its devices are read for their outputs, so they are simulators,
    twins or devices at hand.

    **Arguments:**

    - `model`: with `PhysicalLayer`s, trained.
    - `devices`: by the names of their layers, or in the order of the layers. Numbers, limits and period of their
      settings are those of the trained devices.
    - `data` (default None): rows x, or rows and targets. Classes give accuracy; numbers, the squared error; without
      targets the loss is the relative difference from the trained model's output. Without data each layer is given
      random rows and judged by itself.
    - `budget` (default None, no limit): of all devices together. It must pay for one reading of the held-out rows; a
      stage that would exceed it is undone, and those after it are not tried.
    - `steps` (default 10), at most.
    - `calibrate` (default None, where it pays): True or False for always or never.
    - `loss` (default as above): a function of outputs and targets that returns the loss of each row.
    - `seed` (default 0): of random rows.

    **Raises** `ArgumentError` and `IncompatibleError` for devices that do not fit, and `BudgetExhausted`.

    >>> import torch, blackprop as bp
    >>> trained = torch.nn.Sequential(bp.PhysicalLayer(bp.devices.MZIMesh(8, 4)), torch.nn.ReLU())
    >>> chip = bp.devices.ImperfectMZIMesh(8, 4, phase=0.1, seed=1)
    >>> report = bp.deploy(trained, chip, torch.randn(64, 8))
    >>> report.after.loss < 0.01 * report.before.loss
    True
    """
    placed = named(model, devices)
    if steps < 0:
        raise ArgumentError(f"`deploy(steps=...)` must not be negative, got {steps}")
    if budget is not None and not isinstance(budget, Budget):
        raise ArgumentError(f"`deploy(budget=...)` takes a Budget, got {budget!r}")
    x, target = _parted(data)
    deployed = placed_on(model, placed, budget)
    fitted_rows = None
    if x is None:
        layers, judge = _by_layers(model, deployed, list(placed), seed)
    else:
        half = (len(x) + 1) // 2
        fitted_rows = x[:half]
        _, rows = met(model, list(placed), fitted_rows)
        layers = [_placed(name, model, deployed, *rows[name]) for name in placed]
        reference, _ = met(model, list(placed), x[half:])
        judge = Judge(x[half:], None if target is None else target[half:], reference, loss)
    work = Work(deployed, layers, fitted_rows, steps, calibrate)
    with evaluating(deployed):
        reports = _carried_out(work, judge)
    trained = judge.of(judge.reference).score if isinstance(judge, Judge) else Score(0.0)
    used = ledger(deployed)
    return Deployment(with_own_methods(deployed), tuple(reports), trained, used)


def _carried_out(work: Work, judge: Judge | _LayerJudge) -> list[StageReport]:
    counts = _Counts(work.model)
    now = judge.verdict(work.model)
    reports = [StageReport("written", True, now.score, now.score, *counts.since(), "settings and gains as trained")]
    spent = False
    for stage in STAGES:
        if spent:
            reports.append(StageReport(stage.name, False, now.score, None, 0, 0, 0.0, "not tried: the budget is spent"))
            continue
        kept, lasts = Snapshot(work.model), [each.last for each in work.layers]
        after: Judgement | None = None
        try:
            note = stage.carry_out(work)
            after = judge.verdict(work.model)
        except NotTriedError as reason:
            note = f"not tried: {reason}"
        except BudgetExhausted as reason:
            note, spent = f"undone: {reason}", True
        better = after is not None and after.beats(now)
        score = None if after is None else after.score
        reports.append(StageReport(stage.name, better, now.score, score, *counts.since(), note))
        if better and after is not None:
            now = after
        else:
            kept.restore(work.model)
            for each, last in zip(work.layers, lasts, strict=True):
                each.last = last
    return reports


class _LayerJudge:
    """Judges each layer by itself, on random rows that no stage is fitted to."""

    def __init__(self, layers: list[tuple[PhysicalLayer, Tensor, Tensor]]) -> None:
        self.layers = layers

    def verdict(self, model: nn.Module) -> Judgement:
        del model
        found = []
        for layer, x, wanted in self.layers:
            theta = layer.device.theta.clamp(layer.theta.detach().clone())
            y = layer.gain.detach() * layer._run(read(Query(x, theta, Purpose.EVALUATE)))
            size = wanted.square().flatten(1).sum(1).mean().clamp_min(torch.finfo(y.dtype).tiny)
            found.append((y - wanted).square().flatten(1).sum(1) / size)
        losses = torch.cat(found).double().cpu()
        return Judgement(losses, losses)


class _Counts:
    """The cost since the last look."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.before = Ledger()

    def since(self) -> tuple[int, int, float]:
        now, old = ledger(self.model), self.before
        self.before = now
        seconds = now.lab_seconds - old.lab_seconds + now.measured_seconds - old.measured_seconds
        return now.total_rows - old.total_rows, now.total_programmings - old.total_programmings, seconds


def _parted(data: object) -> tuple[Tensor | None, Tensor | None]:
    """The rows and the targets, after a check."""
    if data is None:
        return None, None
    x, target = data if isinstance(data, (tuple, list)) and len(data) == 2 else (data, None)
    if not isinstance(x, Tensor) or not (target is None or isinstance(target, Tensor)):
        raise ArgumentError(
            f"`deploy(data=...)` takes rows, or rows and targets, as tensors, got {type(data).__name__}"
        )
    if len(x) < 4 or (target is not None and len(target) != len(x)):
        given = "" if target is None else f" and {len(target)} targets"
        raise ArgumentError(
            f"`deploy(data=...)` takes at least 4 rows, and a target for each, got {len(x)} rows{given}"
        )
    return x, target


def _layer(model: nn.Module, name: str) -> PhysicalLayer:
    found = model.get_submodule(name)
    assert isinstance(found, PhysicalLayer)
    return found


def _placed(name: str, trained: nn.Module, deployed: nn.Module, x: Tensor, wanted: Tensor) -> Placed:
    """Choose evenly spaced rows for fits, and half as many for checks."""
    layer = _layer(deployed, name)
    most = min(len(x), 3 * max(LEAST, 2 * layer.device.declaration.d_in) // 2)
    chosen = torch.linspace(0, len(x) - 1, most).round().long()
    check = torch.zeros(most, dtype=torch.bool)
    check[2::3] = True
    fit, held = chosen[~check], chosen[check] if most > 2 else chosen
    return Placed(name, _layer(trained, name), layer, x[fit], wanted[fit], x[held], wanted[held])


def _by_layers(
    trained: nn.Module, deployed: nn.Module, names: list[str], seed: int
) -> tuple[list[Placed], _LayerJudge]:
    generator, layers, judged = torch.Generator().manual_seed(seed), [], []
    for name in names:
        source = _layer(trained, name)
        spec = source.device.declaration
        count = max(RANDOM, 4 * spec.d_in)
        x = torch.randn(count, *spec.in_shape, generator=generator).to(source.theta)
        if source.surrogate.input_rms is not None:
            x *= source.surrogate.input_rms / spec.d_in**0.5
        x = within(spec, x)
        theta = spec.theta.clamp(source.theta.detach().clone())
        wanted: Any = source.gain.detach() * source._run(read(Query(x, theta, Purpose.EVALUATE)))
        half = 3 * count // 4
        layers.append(_placed(name, trained, deployed, x[:half], wanted[:half]))
        judged.append((_layer(deployed, name), x[half:], wanted[half:]))
    return layers, _LayerJudge(judged)
