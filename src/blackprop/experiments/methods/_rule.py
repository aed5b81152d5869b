"""How the parameters of a network come by their gradients; whatever the rule, the task's own optimizers step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

Backward = Callable[[Tensor], None]
"""Adds what autograd finds of a loss to `.grad`; mixed precision scales it."""


@dataclass(frozen=True, eq=False)
class Batch:
    """Rows, their targets, and what the network makes of them; each time a forward pass through the devices."""

    x: Tensor
    y: Tensor
    forward: Callable[[Tensor], Tensor]
    criterion: Callable[[Tensor, Tensor], Tensor]  # of outputs and targets

    def loss(self) -> Tensor:
        return self.criterion(self.forward(self.x), self.y)


class GradientRule(Protocol):
    through_devices: bool
    """Whether an error passes through devices to what stands before them, so that surrogates are asked."""

    def add_gradients(self, batch: Batch, backward: Backward) -> float:
        """Add the gradients of the loss to `.grad`, by `backward` what autograd finds of it, and return the loss."""
        ...

    def passes(self) -> int:
        """Forward passes a step, each at settings of its own but the first of backpropagation."""
        ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: Mapping[str, Any], /) -> None: ...
