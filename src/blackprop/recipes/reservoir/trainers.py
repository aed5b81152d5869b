"""What trains a network around a reservoir, whatever the method: something that steps when it can call the loss."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor
from torch.optim import Optimizer

from blackprop.optim import ForwardOnly

Loss = Callable[[], Tensor]


class Trainer(Protocol):
    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """Those of a torch optimizer; their `lr` may be changed between steps."""
        ...

    def step(self, loss: Loss) -> None:
        """Move the parameters once; `loss` may be called as often as the method needs, on one batch."""


@dataclass(frozen=True)
class Backpropagation:
    """One call of the loss, its gradient, a step."""

    optimizer: Optimizer

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        return self.optimizer.param_groups

    def step(self, loss: Loss) -> None:
        self.optimizer.zero_grad()
        loss().backward()
        self.optimizer.step()


@dataclass(frozen=True)
class FromLosses:
    """As many calls as the optimizer makes, and no gradient."""

    optimizer: ForwardOnly

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        return self.optimizer.param_groups

    def step(self, loss: Loss) -> None:
        self.optimizer.step(loss)


@dataclass(frozen=True)
class Both:
    """What lies before the reservoir and in it from losses, what lies behind it by backpropagation: one call more."""

    before: FromLosses
    behind: Backpropagation

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        return [*self.before.param_groups, *self.behind.param_groups]

    def step(self, loss: Loss) -> None:
        self.before.step(loss)
        with self.before.optimizer.hidden():
            self.behind.step(loss)
