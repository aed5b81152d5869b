"""Methods that send the error back through fixed random weights, in place of the devices."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from blackprop.devices import Device
from blackprop.errors import IncompatibleError
from blackprop.experiments.methods._methods import TrainingMethod
from blackprop.experiments.methods._rule import Backward, Batch, GradientRule
from blackprop.learning_rules import DirectFeedback, random_feedback
from blackprop.nn._layer import PhysicalLayer
from blackprop.planning._methods import perturbed
from blackprop.surrogates import RandomFeedback


@dataclass(frozen=True)
class FeedbackAlignment(TrainingMethod):
    """Feedback alignment: a fixed random matrix in place of each device passes the error back, without queries. The
    gradient of θ comes from one random perturbation a step.

    - `name` (default "random-feedback").
    """

    name: str = "random-feedback"

    def layer(self, device: Device, generator: torch.Generator) -> PhysicalLayer:
        estimator = perturbed(device.declaration, 1).estimator
        return PhysicalLayer(device, estimator, RandomFeedback(), generator=generator)


@dataclass(frozen=True)
class DirectFeedbackAlignment(TrainingMethod):
    """Direct feedback alignment: one fixed random matrix sends the error from the output to every layer. Within a
    layer, the pair chosen by `blackprop.plan` computes the gradient. For `nn.Sequential` networks.

    - `name` (default "direct-feedback").
    """

    name: str = "direct-feedback"

    def layer(self, device: Device, generator: torch.Generator) -> PhysicalLayer:
        return PhysicalLayer(device, generator=generator)

    def rule(self, model: nn.Module, generator: torch.Generator) -> GradientRule:
        if not isinstance(model, nn.Sequential):
            raise IncompatibleError(
                f"`{self.name}` trains only chains of layers (`nn.Sequential`), got {type(model).__name__}"
            )
        return _Direct(model, generator)


class _Direct:
    """The gradient rule of `DirectFeedback`."""

    through_devices = False

    def __init__(self, model: nn.Sequential, generator: torch.Generator) -> None:
        *hidden, outputs = [width for module in model.modules() if (width := _width(module)) is not None]
        self.model, self.feedback = model, random_feedback(outputs, max(hidden, default=outputs), generator)

    def add_gradients(self, batch: Batch, backward: Backward) -> float:
        del backward  # each layer has its own loss
        return float(DirectFeedback(self.model, self.feedback, loss=batch.criterion).backward(batch.x, batch.y))

    def passes(self) -> int:
        return 1

    def state_dict(self) -> dict[str, Any]:
        return {"feedback": self.feedback}

    def load_state_dict(self, state: Mapping[str, Any], /) -> None:
        self.feedback = state["feedback"]


def _width(module: nn.Module) -> int | None:
    """Return the number of outputs of a layer, or None if `module` is not a layer."""
    if isinstance(module, PhysicalLayer):
        return math.prod(module.out_shape)
    return module.out_features if isinstance(module, nn.Linear) else None
