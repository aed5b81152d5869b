"""The device, the surrogates and the random rows of a contract test of surrogates."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from blackprop.core._declaration import Declaration
from blackprop.core._metered import Measurable
from blackprop.core._probes import spanning
from blackprop.core._procedure import Procedure, ask
from blackprop.core._query import Purpose, Query
from blackprop.devices import Device
from blackprop.errors import ArgumentError
from blackprop.surrogates import Surrogate
from blackprop.testing._bench import (
    Bench,
    normal,
    random_rows,
    seeded,
)

Make = Callable[[], Surrogate]
Learn = Callable[[Surrogate, torch.Generator], Procedure[None]]


@dataclass(frozen=True, eq=False)
class SurrogateCase:
    bench: Bench
    device: Device
    factory: Make
    generator: torch.Generator
    batch: int
    tolerance: float

    @property
    def spec(self) -> Declaration:
        return self.device.declaration

    def bound(self, spec: Declaration | None = None) -> Surrogate:
        surrogate = self.factory()
        surrogate.bind(spec if spec is not None else self.spec)
        return surrogate.to(self.generator.device)

    def copy(self, surrogate: Surrogate) -> Surrogate:
        other = self.bound()
        other.load_state_dict(surrogate.state_dict())
        return other

    def learn(
        self, surrogate: Surrogate, claim: str, learn: Learn, seed: int, device: Measurable | None = None
    ) -> None:
        procedure = learn(surrogate, seeded(seed, self.generator))
        self.bench.run(claim, procedure, device if device is not None else self.device)

    def rows(self) -> tuple[Tensor, Tensor]:
        """Return inputs and cotangents."""
        x = random_rows(self.spec, self.batch, self.generator)
        return x, normal((self.batch, *self.spec.out_shape), self.generator)

    def matrix(self, theta: Tensor) -> Tensor:  # (d_out, d_in)
        unit = torch.eye(self.spec.d_in, device=theta.device)
        probes = spanning(self.spec, unit, 1.0, 1.0)
        rows = probes.rows.unflatten(1, self.spec.in_shape)
        (y,) = self.bench.run("reference", ask(Query(rows, theta, Purpose.CALIBRATE)), self.device)
        return probes.matrix(y.flatten(1))

    def truth(self, theta: Tensor, x: Tensor, grad_y: Tensor, rank: int | None) -> Tensor:
        """Return the exact `∂L/∂x`."""
        if self.spec.linear:
            u, s, v = torch.linalg.svd(self.matrix(theta), full_matrices=False)
            return (grad_y.flatten(1) @ u[:, :rank] * s[:rank] @ v[:rank]).reshape(x.shape)
        if self.spec.oracle is None:
            raise ArgumentError(
                f"`check_surrogate(device=...)` needs a linear device or a simulator; {self.spec.name} is neither"
            )
        with torch.enable_grad():
            leaf = x.clone().requires_grad_()
            return torch.autograd.grad(self.spec.oracle(leaf, theta), leaf, grad_y)[0]
