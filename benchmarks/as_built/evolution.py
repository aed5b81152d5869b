"""Two evolution strategies over all parameters of a network, and batch norms that follow short trainings."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

import blackprop as bp
from blackprop.experiments import TrainingMethod
from blackprop.experiments.methods._rule import Backward, Batch, GradientRule

POPULATION = 20
SETTLING = 256  # rows that settle the batch norms at the final setting


class _Search:
    """A normal distribution with a standard deviation for each parameter; one generation a step."""

    through_devices = False

    def __init__(self, model: nn.Module, sigma: float, generator: torch.Generator) -> None:
        self.parameters, self.generator = list(model.parameters()), generator
        self.mean = torch.cat([p.detach().flatten() for p in self.parameters])
        self.spread = torch.full_like(self.mean, sigma)

    def add_gradients(self, batch: Batch, backward: Backward) -> float:
        """Move the distribution, and the parameters to its mean. The optimizer has no gradient to follow."""
        del backward
        with torch.no_grad():
            drawn = torch.randn(POPULATION, len(self.mean), generator=self.generator)
            losses = torch.stack([self._loss(batch, self.mean + self.spread * each) for each in drawn])
            self.move(drawn[losses.argsort()])
            self._put(self.mean)
        return float(losses.mean())

    def move(self, ranked: Tensor) -> None:
        """Learn from the samples (population, P), the best one first."""
        raise NotImplementedError

    def _loss(self, batch: Batch, values: Tensor) -> Tensor:
        self._put(values)
        return batch.loss().detach()

    def _put(self, values: Tensor) -> None:
        for p, part in zip(self.parameters, values.split([p.numel() for p in self.parameters]), strict=True):
            p.copy_(part.view_as(p))

    def passes(self) -> int:
        return POPULATION

    def state_dict(self) -> dict[str, Any]:
        return {"mean": self.mean, "spread": self.spread, "generator": self.generator.get_state()}

    def load_state_dict(self, state: Mapping[str, Any], /) -> None:
        self.mean, self.spread = state["mean"].clone(), state["spread"].clone()
        self.generator.set_state(state["generator"])


class _Natural(_Search):
    """Separable natural evolution strategies: Schaul, Glasmachers and Schmidhuber, GECCO 2011."""

    def move(self, ranked: Tensor) -> None:
        n = len(self.mean)
        weights = (math.log(POPULATION / 2 + 1) - torch.arange(1, POPULATION + 1).log()).clamp_min(0)
        weights = weights / weights.sum() - 1 / POPULATION
        rate = (3 + math.log(n)) / (5 * math.sqrt(n))
        self.mean += self.spread * (weights @ ranked)
        self.spread *= (rate / 2 * (weights @ (ranked.square() - 1))).exp()


class _Covariance(_Search):
    """Covariance matrix adaptation with a diagonal matrix: Ros and Hansen, PPSN 2008."""

    def __init__(self, model: nn.Module, sigma: float, generator: torch.Generator) -> None:
        super().__init__(model, sigma, generator)
        self.step = sigma
        self.scale = torch.ones_like(self.mean)  # √C
        self.paths = torch.zeros(2, len(self.mean))  # of the step size, and of C
        self.count = 0

    def move(self, ranked: Tensor) -> None:
        n, parents = len(self.mean), POPULATION // 2
        weights = math.log(parents + 0.5) - torch.arange(1, parents + 1).log()
        weights = weights / weights.sum()
        mass = float(1 / weights.square().sum())
        c_step, c_path = (mass + 2) / (n + mass + 3), 4 / (n + 4)
        damping = 1 + 2 * max(0.0, math.sqrt((mass - 1) / (n + 1)) - 1) + c_step
        c_full = 2 / (n + math.sqrt(2)) ** 2 / mass + (1 - 1 / mass) * min(1, (2 * mass - 1) / ((n + 2) ** 2 + mass))
        c_all = min(1.0, (n + 2) / 3 * c_full)
        self.count += 1
        best = weights @ ranked[:parents]
        self.mean += self.step * self.scale * best
        self.paths[0].mul_(1 - c_step).add_(math.sqrt(c_step * (2 - c_step) * mass) * best)
        length, expected = float(self.paths[0].norm()), math.sqrt(n) * (1 - 1 / (4 * n) + 1 / (21 * n * n))
        fresh = length / math.sqrt(1 - (1 - c_step) ** (2 * self.count)) < (1.4 + 2 / (n + 1)) * expected
        moved = math.sqrt(c_path * (2 - c_path) * mass) * self.scale * best
        self.paths[1].mul_(1 - c_path).add_(fresh * moved)
        rank_many = weights @ (self.scale * ranked[:parents]).square()
        variance = (1 - c_all) * self.scale.square() + c_all * (
            self.paths[1].square() / mass + (1 - 1 / mass) * rank_many
        )
        self.scale = variance.sqrt()
        self.step *= math.exp(min(1.0, c_step / damping * (length / expected - 1)))
        self.spread = self.step * self.scale

    def state_dict(self) -> dict[str, Any]:
        own = {"step": self.step, "scale": self.scale, "paths": self.paths, "count": self.count}
        return {**super().state_dict(), **own}

    def load_state_dict(self, state: Mapping[str, Any], /) -> None:
        super().load_state_dict(state)
        self.step, self.scale, self.paths = state["step"], state["scale"].clone(), state["paths"].clone()
        self.count = state["count"]


@dataclass(frozen=True)
class Evolution(TrainingMethod):
    """All parameters, θ and digital ones, by an evolution strategy: 20 passes a step."""

    signal_scaled: ClassVar[bool] = False
    rates: ClassVar[tuple[str, ...]] = ()

    sigma: float = 0.1
    name: str = "snes"

    def layer(self, device: bp.Device, generator: torch.Generator) -> bp.PhysicalLayer:
        still = bp.estimators.Still()
        return bp.PhysicalLayer(
            device, still, bp.surrogates.Streaming(bias=True, exact_start=False), generator=generator
        )

    def rule(self, model: nn.Module, generator: torch.Generator) -> _Search:
        return (_Natural if self.name == "snes" else _Covariance)(model, self.sigma, generator)


@dataclass(frozen=True)
class Normed(TrainingMethod):
    """A method, whose batch norms take the statistics of the last 8 training batches at its end.

    Running statistics lag behind devices in trainings as short as these. Methods that read displaced settings alone,
    `displaced`, keep back one pass of 256 rows at the final one.
    """

    method: TrainingMethod
    displaced: bool = False

    @property
    def name(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.method.name

    @property
    def signal_scaled(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.method.signal_scaled

    @property
    def rates(self) -> tuple[str, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.method.rates

    def layer(self, device: bp.Device, generator: torch.Generator) -> bp.PhysicalLayer:
        return self.method.layer(device, generator)

    def rule(self, model: nn.Module, generator: torch.Generator) -> GradientRule:
        _NORMS[model] = bp.optim.RecentNorms(model, 1 if self.displaced else 8)
        return self.method.rule(model, generator)

    def rows_kept_back(self, rows: int) -> int:
        return 2 * min(rows, SETTLING) if self.displaced else 0

    def finish(self, model: nn.Module, x: Tensor, y: Tensor) -> None:
        del y
        if self.displaced:
            with torch.no_grad():
                model.train()(x[:SETTLING])
        _NORMS[model].apply()


_NORMS: WeakKeyDictionary[nn.Module, bp.optim.RecentNorms] = WeakKeyDictionary()
