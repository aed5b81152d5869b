"""Physical local learning as a method of the field's bench: it brings networks and steps of its own."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count, islice
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import blackprop as bp
from blackprop.experiments.engine._allowance import physical_layers
from blackprop.experiments.methods._methods import SelfContained, TrialParts
from blackprop.learning_rules import PhysicalLocalLearning

CLASSES = 10


@dataclass(frozen=True)
class LocalLearning(SelfContained):
    """Physical local learning: θ stays as drawn, and a digital matrix behind each device learns from it alone, and from
    what the device gets. With `reads` false, from the latter alone: what the matrices do without any device.
    """

    inner: int = 5
    reads: bool = True
    name: str = "local-learning"

    signal_scaled: ClassVar[bool] = False

    def layer(self, device: bp.Device, generator: torch.Generator) -> bp.PhysicalLayer:
        layer = bp.PhysicalLayer(device, generator=generator)
        layer.theta.requires_grad_(False)
        return layer

    def fit(self, trial: TrialParts, model: nn.Module, x: Tensor, y: Tensor, rows: int) -> tuple[nn.Module, int]:
        """A stack of the devices of `model`, the first with more inputs, for the label; and the batches it visited."""
        task: Any = trial.task  # all have rates
        size = task.batch_size
        shapes = [(*layer.in_shape, *layer.out_shape) for layer in physical_layers(model)]
        if tuple(x.shape[1:]) != shapes[0][:1]:
            raise bp.errors.IncompatibleError(
                f"physical local learning writes the label into the rows of {task.name}, and they do not go into its "
                "first device as they are"
            )
        sizes = [(d_in + (0 if index else CLASSES), d_out) for index, (d_in, d_out) in enumerate(shapes)]
        layers = [trial.layer(*size, index) for index, size in enumerate(sizes)]
        generator = torch.Generator().manual_seed(trial.seed)
        rule = PhysicalLocalLearning(layers, CLASSES, shapes[0][1], generator=generator)
        like = [roomy(x[:size]), *(torch.randn(size, d_in, generator=generator).abs() for d_in, _ in sizes[1:])]
        for layer, sent in zip(layers, like, strict=True):
            level(layer, sent, float(self.reads))
        optimizer, cost = torch.optim.Adam(rule.digital.parameters(), task.device_lr), 2 * len(layers) * size
        visits = (rows - len(layers) * size) // cost
        for visit, batch in enumerate(islice(batches(trial, len(x), size), visits)):
            optimizer.param_groups[0]["lr"] = task.device_lr * (1 + math.cos(math.pi * visit / visits)) / 2
            for _ in rule.visit(roomy(x[batch]), y[batch], self.inner):
                optimizer.step()
                rule.zero_grad()
        return Answers(rule), visits


class Answers(nn.Module):
    """The labels that a rule predicts, as logits."""

    def __init__(self, rule: PhysicalLocalLearning) -> None:
        super().__init__()
        self.rule = rule

    def forward(self, x: Tensor) -> Tensor:
        return F.one_hot(self.rule.predict(roomy(x)), CLASSES).to(x)


@torch.no_grad()
def level(layer: bp.PhysicalLayer, x: Tensor, wanted: float) -> None:
    """Have rows like x read at this rms, by one reading: some devices answer twenty times as large as what they get."""
    assert layer.gain is not None
    layer.gain *= wanted / layer(x).square().mean().sqrt()


def batches(trial: TrialParts, rows: int, size: int) -> Iterator[Tensor]:
    """The rows of each batch, in the order in which the other methods see them."""
    for epoch in count():
        for some in torch.randperm(rows, generator=trial.order(epoch)).split(size):
            if len(some) == size:
                yield some


def roomy(x: Tensor) -> Tensor:
    """Rows with room for the label in their first entries."""
    return F.pad(x, (CLASSES, 0))
