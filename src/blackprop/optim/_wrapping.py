"""An optimizer around another one, which schedulers, scalers and checkpoints treat like the inner one."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import torch
from torch import Tensor

from blackprop.errors import ArgumentError


class WrappingOptimizer(torch.optim.Optimizer):
    """Wraps the `optimizer`: one list of groups and one state for both. Subclasses make the step.

    **Raises** `ArgumentError` for an `optimizer` that is none, and when parameters are added afterwards.
    """

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        if not isinstance(optimizer, torch.optim.Optimizer):
            raise ArgumentError(f"`{type(self).__name__}(optimizer=...)` takes a torch optimizer, got {optimizer!r}")
        self.inner: torch.optim.Optimizer = optimizer
        super().__init__(optimizer.param_groups, optimizer.defaults)
        self._share_state()
        self._closed = True

    def zero_grad(self, set_to_none: bool = True) -> None:
        self.inner.zero_grad(set_to_none)

    def state_dict(self) -> dict[str, Any]:
        return self.inner.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.inner.load_state_dict(state_dict)
        self._share_state()

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        if hasattr(self, "_closed"):  # the groups of the inner optimizer are added before
            raise ArgumentError(
                f"`{type(self).__name__}` takes no further parameters: add them to the optimizer it wraps, first"
            )
        super().add_param_group(param_group)

    def _share_state(self) -> None:
        """Use one list of groups and one state for both, so that schedulers and scalers reach the inner optimizer."""
        self.param_groups: list[dict[str, Any]] = self.inner.param_groups
        self.state: defaultdict[Tensor, Any] = self.inner.state
