"""A device on the bench: its queries, moves of its parameters, and the separation of noise from differences."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from blackprop.core._procedure import ask
from blackprop.core._query import Purpose, Query
from blackprop.devices import Device
from blackprop.testing._bench import Bench

SIGMAS = 6.0  # largest difference, in standard deviations of the device's own noise


class Probe:
    """A device at a setting θ, another setting θ′, and rows x for comparisons."""

    def __init__(
        self, device: Device, bench: Bench, theta: Tensor, x: Tensor, tolerance: float, generator: torch.Generator
    ) -> None:
        self.device, self.bench, self.theta, self.x = device, bench, theta, x
        self.tolerance, self.generator = tolerance, generator
        self.spec = device.declaration
        self.sigma = 0.0  # the largest standard deviation of an output, once it is known
        self.repeats = 1
        self.other = self.moved(self.all())

    def ask(self, claim: str, *pairs: tuple[Tensor, Tensor]) -> list[Tensor]:
        """Measure one round of (x, θ); the device must not change its arguments."""
        # As in a layer, rows may require a gradient, which devices must ignore.
        queries = [Query(x.detach().requires_grad_(), theta, Purpose.CALIBRATE) for x, theta in pairs]
        sent = [(x.detach().clone(), theta.clone()) for x, theta in pairs]
        readings = self.bench.run(claim, ask(*queries), self.device)
        for (x, theta), (x_sent, theta_sent) in zip(pairs, sent, strict=True):
            for name, now, then in (("rows", x, x_sent), ("setting", theta, theta_sent)):
                self.bench.require(
                    torch.equal(now, then), f"leaves the {name} as sent", "changed in place", "unchanged"
                )
        graph = any(y.requires_grad for y in readings)
        self.bench.require(not graph, "no autograd", "a reading that requires a gradient", "none")
        return readings

    def read(self, x: Tensor, theta: Tensor, claim: str) -> Tensor:
        return self.ask(claim, (x, theta))[0]

    def difference(self, a: Callable[[], Tensor], b: Callable[[], Tensor]) -> tuple[Tensor, float]:
        """Return the mean of a − b, taken in turns, and its bound if a and b are equal."""
        pairs = [(a(), b()) for _ in range(self.repeats)]
        change = torch.stack([left - right for left, right in pairs])
        bound = self.tolerance * max(float(y.abs().max()) for pair in pairs for y in pair)
        if self.repeats > 1:
            sigma = max(self.sigma * math.sqrt(2), float(change.std(0).square().mean().sqrt()))
            bound += SIGMAS * sigma / math.sqrt(self.repeats)
        return change.mean(0), bound

    def alike(self, claim: str, a: Callable[[], Tensor], b: Callable[[], Tensor], what: str) -> str:
        """Require a = b; return their distance."""
        change, bound = self.difference(a, b)
        worst = float(change.abs().max())
        self.bench.require(worst <= bound, claim, f"{what} differs by {worst:.3g} (allowed {bound:.2g})", "alike")
        return f"within {worst:.2g}"

    def moved(self, which: Tensor) -> Tensor:
        """Return θ with the parameters `which` (P,) moved by about a quarter of their range."""
        like, spec = self.theta, self.spec.theta
        reach = spec.period / 4 if spec.period is not None else max(0.3, float(like.square().mean().sqrt()))
        low, high = spec.bounds(like)
        reach = torch.full_like(like, reach).minimum((high - low) / 4)
        size = 0.5 + 0.5 * torch.rand(like.shape, generator=self.generator, device=like.device)
        sign = torch.randint(0, 2, like.shape, generator=self.generator, device=like.device) * 2 - 1
        step = size * sign * reach
        # Reverse moves that would leave the limits, so that every parameter does move.
        step = torch.where((like + step < low) | (like + step > high), -step, step)
        return spec.clamp(torch.where(which, like + step, like))

    def all(self) -> Tensor:
        return torch.ones_like(self.theta, dtype=torch.bool)

    def singles(self, count: int) -> list[tuple[int, Tensor]]:
        """Yield some parameters, drawn without replacement, each with the mask (P,) that selects it alone."""
        order = torch.randperm(self.spec.theta.size, generator=self.generator, device=self.generator.device)
        positions = torch.arange(self.spec.theta.size, device=self.theta.device)
        return [(index, positions == index) for index in order[:count].tolist()]
