"""Classical reservoir computing as a method, and its readout at the end of other methods."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from blackprop.devices import Device
from blackprop.errors import IncompatibleError
from blackprop.experiments.engine._allowance import physical_layers
from blackprop.experiments.engine._evaluation import EVALUATED
from blackprop.experiments.methods._methods import SelfContained, TrainingMethod, TrialParts
from blackprop.experiments.methods._rule import GradientRule
from blackprop.experiments.tasks.sequences import _ridge as ridge
from blackprop.experiments.tasks.sequences._base import SequenceTask
from blackprop.experiments.tasks.sequences._networks import ReservoirNetwork
from blackprop.nn._layer import PhysicalLayer


@dataclass(frozen=True)
class ReadoutAlone(SelfContained):
    """Classical reservoir computing: the reservoir and the drive keep their initial values. One pass over the sequences
    fits the readout by ridge regression, with one programming and no gradient.
    """

    name: str = "ridge"

    rates: ClassVar[tuple[str, ...]] = ()

    def layer(self, device: Device, generator: torch.Generator) -> PhysicalLayer:
        layer = PhysicalLayer(device, generator=generator)
        layer.theta.requires_grad_(False)
        return layer

    def fit(self, trial: TrialParts, model: nn.Module, x: Tensor, y: Tensor, rows: int) -> tuple[nn.Module, int]:
        del trial
        fit_readout(model, x[:rows], y[:rows])
        return model, 0


@dataclass(frozen=True)
class Refitted(TrainingMethod):
    """`method`, followed by a new ridge regression of the readout on rows reserved for it. The score then measures the
    trained reservoir, independent of how well the steps train the readout.
    """

    method: TrainingMethod

    def __post_init__(self) -> None:
        for name in ("name", "signal_scaled", "rates"):
            object.__setattr__(self, name, getattr(self.method, name))

    def layer(self, device: Device, generator: torch.Generator) -> PhysicalLayer:
        return self.method.layer(device, generator)

    def rule(self, model: nn.Module, generator: torch.Generator) -> GradientRule:
        return self.method.rule(model, generator)

    def rows_kept_back(self, rows: int) -> int:
        return rows

    def finish(self, model: nn.Module, x: Tensor, y: Tensor) -> None:
        fit_readout(model, x, y)


def refitted(task: SequenceTask, methods: Iterable[TrainingMethod]) -> tuple[TrainingMethod, ...]:
    """Return `methods`, each with a readout that is fitted again at the end if the task is a regression."""
    if task.objective.metric == "accuracy":
        return tuple(methods)
    return tuple(method if isinstance(method, SelfContained) else Refitted(method) for method in methods)


@torch.no_grad()
def fit_readout(model: nn.Module, x: Tensor, y: Tensor) -> None:
    """Fit the readout of `model` by ridge regression to sequences `x` (B, time, channels) and their targets `y`."""
    if not isinstance(model, ReservoirNetwork):
        raise IncompatibleError(
            f"a {type(model).__name__} does not have a linear readout that ridge regression can fit"
        )
    model.eval()
    for layer in physical_layers(model):
        layer.train()  # books its rows as training rows
    place = model.readout.weight.device
    targets = y if y.is_floating_point() else F.one_hot(y, model.sizes.outputs)
    features = torch.cat([model.features(part.to(place)) for part in x.split(EVALUATED)])
    ridge.fit(features, targets.to(place)).write(model.readout)
