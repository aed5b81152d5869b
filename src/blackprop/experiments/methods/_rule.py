"""Gradient rules: how the parameters of a network get their gradients. The optimizers of the task make the steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

Backward = Callable[[Tensor], None]
"""Adds the gradients of a loss by autograd to `.grad`, with the loss scaling of mixed precision."""


@dataclass(frozen=True, eq=False)
class Batch:
    """Rows, their targets, and the network's forward pass, in which every call reads the devices."""

    x: Tensor
    y: Tensor
    forward: Callable[[Tensor], Tensor]
    criterion: Callable[[Tensor, Tensor], Tensor]  # (outputs, targets) -> loss

    def loss(self) -> Tensor:
        return self.criterion(self.forward(self.x), self.y)


class GradientRule(Protocol):
    through_devices: bool
    """Whether an error passes back through devices, so that surrogates are needed."""

    def add_gradients(self, batch: Batch, backward: Backward) -> float:
        """Add the gradients of the loss to `.grad`, those of autograd by `backward`, and return the loss."""
        ...

    def passes(self) -> int:
        """Return the forward passes a step. Each has its own settings, except for the first one of backpropagation."""
        ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: Mapping[str, Any], /) -> None: ...
