"""Devices with a model: find the setting on the model, and correct it by the device's readings."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from blackprop import devices, twins
from blackprop.conversion._base import Programmed, Programmer, bound, corrected
from blackprop.conversion._decomposition import decomposed
from blackprop.core._declaration import Declaration
from blackprop.core._procedure import Procedure
from blackprop.errors import ArgumentError, IncompatibleError
from blackprop.surrogates import Surrogate, Twin

HISTORY = 20  # of L-BFGS


@dataclass(frozen=True)
class ByModel(Programmer):
    """`θ = argmin 1 − |cos(A_model(θ), W)|` by L-BFGS through a differentiable model; the gain is free.

    A `Twin` is calibrated first. The fit starts at the present θ; for a `MeshTwin` at the decomposition of W
    (`decomposed`), less the phase offsets of the twin. The difference between the device's readings and the model is
    then added to the model as an offset, and the fit continues, up to `corrections` times.

    A mesh of N modes has N(N − 1) phases, N fewer than a universal one, so that a square matrix comes within 0.1 to 0.2
    of its norm and a narrow one much closer. Gaussian matrices on an ideal mesh of 64 modes, 400 iterations: 64→10 to
    0.006 and 64→64 to 0.16; from random phases 0.52 and 0.53, from the present ones, all equal, 0.83 and 0.78.

    **Costs** the twin's calibration, and up to `corrections + 1` programmings and double readings of the matrix; time
    `iterations` times the gradient of d_in rows.

    **Arguments:**

    - `model`: a `Twin`, the layer's own, or a module `forward(x, theta)` as a `Twin` takes.
    - `iterations` (default 800): of L-BFGS.
    - `corrections` (default 3): at most.
    """

    model: nn.Module
    iterations: int = 800
    corrections: int = 3

    def __post_init__(self) -> None:
        if not isinstance(self.model, nn.Module):
            raise ArgumentError(f"`ByModel(model=...)` takes a Twin or a Module, got {self.model!r}")
        for name, value, least in (("iterations", self.iterations, 1), ("corrections", self.corrections, 0)):
            if value < least:
                raise ArgumentError(f"`ByModel({name}=...)` must be at least {least}, got {value}")

    @property
    def surrogate(self) -> Surrogate | None:
        return self.model if isinstance(self.model, Twin) else None

    def program(
        self, wanted: Tensor, theta: Tensor, spec: Declaration, generator: torch.Generator
    ) -> Procedure[Programmed]:
        twin = self.model if isinstance(self.model, Twin) else None
        model = twin.model if twin is not None else self.model.to(wanted.device)
        if (shape := tuple(_matrix(model, theta, spec).shape)) != tuple(wanted.shape):
            raise IncompatibleError(f"this {type(model).__name__} is a model of a matrix {shape}, not of {spec.name}")
        if isinstance(model, twins.MeshTwin):
            theta = _mesh_start(model, wanted)
        if twin is not None:
            bound(twin, spec)
            yield from twin.start(theta, generator)
            if isinstance(model, twins.MeshTwin):
                theta = _mesh_start(model, wanted)  # now that the offsets are known

        def solve(off: Tensor, theta: Tensor) -> Procedure[tuple[Tensor, Tensor]]:
            found = _fitted(model, wanted, off, theta, spec, self.iterations)
            return found, _matrix(model, found, spec)
            yield  # a procedure without queries

        best = yield from corrected(solve, wanted, theta, spec, self.corrections)
        if twin is not None:
            yield from twin.track(theta, best.theta, generator)
        return best


def mesh_model(device: object) -> twins.MeshTwin | None:
    """Return the model of an ideal mesh; None for any other device."""
    return twins.MeshTwin(device) if isinstance(device, (devices.MZIMesh, devices.ThreeSplitterMesh)) else None


def _mesh_start(model: twins.MeshTwin, wanted: Tensor) -> Tensor:
    mesh, three = model.design, devices.ImperfectThreeSplitterMesh
    assert isinstance(mesh, (devices.ImperfectMZIMesh, three))
    theta = decomposed(wanted, mesh.modes, isinstance(mesh, three)) - model.offset.detach().to(wanted)
    return theta.remainder(2 * math.pi)


def _matrix(model: nn.Module, theta: Tensor, spec: Declaration) -> Tensor:
    """Return the model's matrix (d_out, d_in), from unit rows."""
    length = math.sqrt(spec.d_in)
    rows = length * torch.eye(spec.d_in, dtype=theta.dtype, device=theta.device)
    return model(rows, theta).mT / length


def _fitted(model: nn.Module, wanted: Tensor, off: Tensor, theta: Tensor, spec: Declaration, iterations: int) -> Tensor:
    """Return the setting at which the model's matrix, plus `off`, has the greatest cosine to the wanted one."""
    limits = _Limits(spec, theta)
    free = limits.free(theta).requires_grad_()
    with torch.no_grad():
        sign = -1 if float(((_matrix(model, theta, spec) + off) * wanted).sum()) < 0 else 1
    aim = sign * wanted / wanted.norm()
    optimizer = torch.optim.LBFGS(
        [free],
        max_iter=iterations,
        history_size=HISTORY,
        tolerance_grad=1e-9,
        tolerance_change=1e-9,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Any:
        with torch.enable_grad():
            matrix = _matrix(model, limits.theta(free), spec) + off
            loss = (
                matrix / matrix.norm() - aim
            ).square().sum() / 2  # 1 − cosine, without a difference of large numbers
        (free.grad,) = torch.autograd.grad(loss, free)
        return loss

    optimizer.step(closure)
    return spec.theta.clamp(limits.theta(free.detach()))


class _Limits:
    """θ as a function of free variables: θ itself, or `middle + half · sin` between two limits."""

    def __init__(self, spec: Declaration, like: Tensor) -> None:
        low, high = (limit.expand(like.shape) for limit in spec.theta.bounds(like))
        self.closed = low.isfinite() & high.isfinite()
        self.middle = torch.where(self.closed, (low + high) / 2, 0)
        self.half = torch.where(self.closed, (high - low) / 2, 1)

    def free(self, theta: Tensor) -> Tensor:
        inside = ((theta - self.middle) / self.half).clamp(-0.99, 0.99)  # at ±1 the slope is zero
        return torch.where(self.closed, inside.asin(), theta)

    def theta(self, free: Tensor) -> Tensor:
        return torch.where(self.closed, self.middle + self.half * free.sin(), free)
