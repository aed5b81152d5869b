"""The device, rows and gradients of a contract test of estimators."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from blackprop.core._declaration import Declaration
from blackprop.core._metered import Measurable
from blackprop.core._procedure import Procedure, ask
from blackprop.core._query import Purpose, Query
from blackprop.devices import Device
from blackprop.errors import ArgumentError
from blackprop.estimators import Estimator
from blackprop.testing._bench import (
    Bench,
    normal,
    random_rows,
    relative,
    together,
)
from blackprop.testing._learning import learns

SIGMAS = 5.0  # largest error of a mean, in its own standard errors
ROUNDING = 1e-3  # further allowed error, relative to the gradient: bias and rounding at the smallest step
COUNTS = (1, 4, 16)
REPEATED = 1e-9  # relative: least squares round by where in memory their arguments lie


@dataclass(frozen=True, eq=False)
class EstimatorCase:
    """A device, a batch and its cotangents, and the exact gradient."""

    device: Measurable
    x: Tensor
    theta: Tensor
    y: Tensor
    grad_y: Tensor
    truth: Tensor  # (P,)
    trained: Tensor | None = None  # the parameters whose gradient the estimator computes; None for all

    @classmethod
    def draw(cls, bench: Bench, device: Device, batch: int, margin: float, generator: torch.Generator) -> EstimatorCase:
        spec = device.declaration
        if spec.oracle is None:
            raise ArgumentError(
                f"`check_estimator(device=...)` needs a simulator to compare with; {spec.name} is not one"
            )
        theta = spec.theta.draw(generator).double()
        if spec.theta.period is not None:  # at the initial setting, the curvature may vanish
            theta += spec.theta.period * torch.rand(theta.shape, generator=generator, device=theta.device)
        theta = spec.theta.interior(theta, margin)
        x = random_rows(spec, batch, generator, torch.float64)
        grad_y = normal((batch, *spec.out_shape), generator, torch.float64)
        return cls._at(bench, device, x, theta, grad_y)

    @classmethod
    def _at(
        cls,
        bench: Bench,
        device: Measurable,
        x: Tensor,
        theta: Tensor,
        grad_y: Tensor,
        trained: Tensor | None = None,
    ) -> EstimatorCase:
        (y,) = bench.run("forward", ask(Query(x, theta, Purpose.CALIBRATE)), device)
        return cls(device, x, theta, y, grad_y, _gradient(device, x, theta, grad_y, trained), trained)

    def kept_by(self, bench: Bench, estimator: Estimator) -> EstimatorCase:
        """The case with the gradient that the estimator aims at: of the parameters that it trains, and of the part of
        the batch that it keeps, with a note of the rest.
        """
        case = self._of(bench, estimator.trained(self.device.declaration))
        x, grad_y = estimator.kept(self.x, self.grad_y)
        if x is self.x and grad_y is self.grad_y:
            return case
        truth = _gradient(self.device, x, self.theta, grad_y, case.trained)
        left_out = relative(truth - case.truth, case.truth)
        bench.note(f"bias by the batch left out, {self.device.declaration.name}", f"{left_out:.2g} of the gradient")
        return replace(case, truth=truth)

    def _of(self, bench: Bench, trained: Tensor | None) -> EstimatorCase:
        if trained is None:
            return self
        name = self.device.declaration.name
        bench.note(f"parameters that are trained, {name}", f"{int(trained.sum())} of {trained.numel()}")
        return replace(self, truth=self.truth * trained.to(self.truth.device), trained=trained)

    def lasting(self, estimator: Estimator) -> float:
        """The declared lasting error of each row's gradient, of all rows together, relative to the gradient."""
        declared = estimator.lasting_error(self.device.declaration)
        if not declared:
            return 0.0
        rows = zip(self.x.split(1), self.grad_y.split(1), strict=True)
        sizes = [float(_gradient(self.device, x, self.theta, grad_y, self.trained).norm()) for x, grad_y in rows]
        return declared * sum(sizes) / float(self.truth.norm())

    def of_one_row(self, bench: Bench) -> EstimatorCase:
        """The same row throughout: an estimator that measures a part of the batch then measures all of it."""
        x, grad_y = (rows[:1].expand_as(rows).clone() for rows in (self.x, self.grad_y))
        return self._at(bench, self.device, x, self.theta, grad_y, self.trained)

    def ask(
        self, estimator: Estimator, generator: torch.Generator, spec: Declaration | None = None
    ) -> Procedure[Tensor]:
        spec = spec if spec is not None else self.device.declaration
        return estimator.grad_theta(self.x, self.theta, self.y, self.grad_y, spec, generator)

    def grad_theta(
        self, estimator: Estimator, generator: torch.Generator, spec: Declaration | None = None
    ) -> Procedure[Tensor]:
        """Run a copy, if the estimator has state, which then stays unchanged."""
        return self.ask(copy.deepcopy(estimator) if learns(estimator) else estimator, generator, spec)

    def gradients(
        self, bench: Bench, estimator: Estimator, count: int, generator: torch.Generator
    ) -> Tensor:  # (count, P)
        """Return independent estimates."""
        done: list[Tensor] = []
        while len(done) < count:
            procedures = [self.grad_theta(estimator, generator) for _ in range(min(256, count - len(done)))]
            done += bench.run("asks what the device takes", together(procedures), self.device)
        return torch.stack(done)


def _gradient(device: Measurable, x: Tensor, theta: Tensor, grad_y: Tensor, trained: Tensor | None = None) -> Tensor:
    """`∂L/∂θ` by autograd through the simulator; 0 for parameters that are not trained."""
    oracle = device.declaration.oracle
    assert oracle is not None
    with torch.enable_grad():
        leaf = theta.clone().requires_grad_()
        gradient = torch.autograd.grad(oracle(x, leaf), leaf, grad_y)[0]
    return gradient if trained is None else gradient * trained.to(gradient.device)
