"""How the parameters of a network come by their gradients; whatever the rule, the task's own optimizers step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from torch import Tensor

Loss = Callable[[], Tensor]
"""The loss of one batch, asked for as often as a rule needs it; each time a forward pass through the devices."""

Backward = Callable[[Tensor], None]
"""Adds what autograd finds of a loss to `.grad`; mixed precision scales it."""


class Rule(Protocol):
    def add_gradients(self, loss: Loss, backward: Backward) -> float:
        """Add the gradients of `loss` to `.grad`, by `backward` what autograd finds, and return the loss."""
        ...

    def passes(self) -> int:
        """Forward passes a step, each at settings of its own but the first of backpropagation."""
        ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: Mapping[str, Any], /) -> None: ...
