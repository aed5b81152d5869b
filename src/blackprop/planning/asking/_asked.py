"""The estimator beside a surrogate that asks first, and how both learn their allowance."""

from __future__ import annotations

from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from blackprop.core._budget import Budget
from blackprop.core._declaration import Declaration
from blackprop.core._procedure import Procedure
from blackprop.estimators import Estimator
from blackprop.planning._workload import Workload, left
from blackprop.planning.asking._ask_first import AskFirst
from blackprop.surrogates import Surrogate


@dataclass(frozen=True)
class Asked(Estimator):
    """`∂L/∂θ` as an `AskFirst` surrogate finds it once it knows the device."""

    surrogate: AskFirst

    @property
    def reads(self) -> object | None:
        return self.surrogate

    @property
    def bias_order(self) -> int | None:
        chosen = self.surrogate.estimator
        return None if chosen is None else chosen.bias_order

    def relative_variance(self, size: int) -> float:
        chosen = self.surrogate.estimator
        return 0.0 if chosen is None else chosen.relative_variance(size)

    @property
    def cosine(self) -> float | None:
        chosen = self.surrogate.estimator
        return None if chosen is None else chosen.cosine

    def advance(self, old: Tensor, new: Tensor, rate: float) -> Tensor:
        return self.surrogate.advance(old, new, rate)

    def diagnosis(self) -> dict[str, float]:
        chosen = self.surrogate.estimator
        return {} if chosen is None else chosen.diagnosis()

    def grad_theta(
        self, x: Tensor, theta: Tensor, y: Tensor, grad_y: Tensor, spec: Declaration, generator: torch.Generator
    ) -> Procedure[Tensor]:
        del spec  # the finding says more than the declaration
        yield from self.surrogate.reconsider(theta, generator)
        return (yield from self.surrogate.ask_theta(x, theta, y, grad_y, generator))


_SHARING: WeakKeyDictionary[Budget, WeakKeyDictionary[Surrogate, Estimator]] = WeakKeyDictionary()


def tell_allowance(surrogate: Surrogate, batch_size: int, budget: Budget | None, steps: int | None = None) -> None:
    """Tell a surrogate that asks first the size of the batches and its allowance, the remainder of `budget`.

    A layer calls this before it starts a surrogate. Limits that were told before can only become narrower: where layers
    share a budget, tell each its part beforehand. Other surrogates, and those that have asked, stay as they are.
    """
    if isinstance(surrogate, AskFirst) and surrogate.finding is None:
        limits = left(budget, surrogate.spec)
        before = surrogate.workload.limits
        narrow = {name: min(limit, before.get(name, limit)) for name, limit in {**before, **limits}.items()}
        if narrow or steps is not None:
            surrogate.workload = Workload.within(narrow, batch_size, steps, surrogate.spec)


def share(budget: Budget | None, surrogate: Surrogate, estimator: Estimator) -> None:
    """Note that a layer uses the budget, and tell all that ask first whether another one has exact gradients.

    A layer calls this when it starts.
    """
    if budget is None:
        return
    sharing = _SHARING.setdefault(budget, WeakKeyDictionary())
    sharing[surrogate] = estimator
    for each in sharing:
        if isinstance(each, AskFirst):
            others = [other for key, other in sharing.items() if key is not each]
            each.beside_exact = any(map(_free, others))


def _free(estimator: Estimator) -> bool:
    """Whether its gradients cost no query."""
    if isinstance(estimator, Asked):
        return estimator.surrogate.estimator is not None and estimator.surrogate.estimator.reads is not None
    return estimator.reads is not None
