"""The model and the optimizers of a contract test of optimizers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from blackprop.errors import ContractError
from blackprop.testing._bench import Bench, fork, normal, seeded

SIGMAS = 5.0  # largest error of a mean, in its own standard errors
ROUNDING = 1e-3  # further allowed error: bias and rounding at the smallest displacement
KNOBS = {"directions": (1, 4, 16), "keep": (1.0, 0.3, 0.1), "levels": (1, 4)}  # possible arguments of a variance law


class TrainsByLoss(Protocol):
    """The tested interface, that of `bp.optim.ForwardOnly`."""

    param_groups: list[dict[str, Any]]
    integration: int

    @property
    def passes(self) -> int: ...
    @property
    def bias_order(self) -> int: ...
    def relative_variance(self, size: int, /) -> float: ...
    def estimate(self, closure: Callable[[], Any], /) -> list[Tensor]: ...
    def step(self, closure: Callable[[], Any], /) -> Any: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state_dict: dict[str, Any], /) -> None: ...


class Curved(nn.Module):
    """A loss of 7 parameters with all derivatives."""

    def __init__(self, generator: torch.Generator) -> None:
        super().__init__()
        self.weight = nn.Parameter(normal((2, 3), generator, torch.float64))
        self.bias = nn.Parameter(normal((1,), generator, torch.float64))
        self.register_buffer("x", normal((5, 3), generator, torch.float64))

    def forward(self) -> Tensor:
        y = (self.get_buffer("x") @ self.weight.mT + self.bias).sin()
        return (y * y.new_tensor([1.0, 2.0])).exp().mean()


Factory = Callable[[nn.Module, torch.Generator], TrainsByLoss]


class OptimizerCase:
    def __init__(self, factory: Factory, generator: torch.Generator, samples: int, step: float) -> None:
        self.factory, self.generator, self.samples, self.step = factory, generator, samples, step
        self.model = Curved(generator)
        self.start = values(self.model)
        self.truth = flat(torch.autograd.grad(self.model(), list(self.model.parameters())))
        sample = self.made(0)
        self.passes, self.integration = sample.passes, sample.integration
        self.random = sample.relative_variance(self.truth.numel()) > 0
        self.bench = Bench(type(sample).__name__)

    def made(self, seed: int, delta: float | None = None, model: nn.Module | None = None, **knobs: Any) -> TrainsByLoss:
        """Return a new optimizer, at the start."""
        if model is None:
            set_values(self.model, self.start)
        made = self.factory(model if model is not None else self.model, seeded(seed, self.generator))
        for group in made.param_groups:
            group["delta"] = delta if delta is not None else self.step / 1000
            group.update({name: value for name, value in knobs.items() if name in group})
        for name in knobs.keys() - made.param_groups[0].keys():
            setattr(made, name, knobs[name])
        return made

    def seed(self) -> int:
        """Return a seed whose first estimate is not zero, as a sparse perturbation of few parameters may give."""
        for seed in (fork(self.generator) for _ in range(1000)):
            if bool(flat(self.made(seed).estimate(self.model)).any()):
                set_values(self.model, self.start)
                return seed
        raise ContractError(f"{self.bench.subject}: every one of 1000 estimates is zero")

    def estimates(self, **knobs: Any) -> tuple[Tensor, float]:  # (count, P)
        """Return independent estimates, and their declared variance."""
        made = self.made(fork(self.generator), **knobs)
        count = max(2 * self.samples // (made.passes * made.integration), 60) if self.random else 2
        drawn = torch.stack([flat(made.estimate(self.model)) for _ in range(count)])
        return drawn, made.relative_variance(self.truth.numel())


def flat(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([t.detach().flatten() for t in tensors])


def values(model: nn.Module) -> list[Tensor]:
    return [p.detach().clone() for p in model.parameters()]


def set_values(model: nn.Module, values: Sequence[Tensor]) -> None:
    with torch.no_grad():
        for p, value in zip(model.parameters(), values, strict=True):
            p.copy_(value)
