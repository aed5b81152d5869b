"""A model of a device that is believed, with the errors of a copy as unknowns, and the settings that it proposes."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from blackprop.conversion._by_model import HISTORY, _Limits
from blackprop.core._declaration import Declaration
from blackprop.devices import Device, Simulator
from blackprop.devices._wrapper import unwrapped
from blackprop.errors import ArgumentError, IncompatibleError
from blackprop.surrogates import Surrogate, Twin
from blackprop.surrogates._model import FittedModel
from blackprop.twins import CalibratedChip, ChipTwin, MeshTwin, MicroringTwin, OffsetTwin

UNSURE = 0.2  # standard deviation of the errors of a copy, in the units of a twin; of offsets in rad
EXACT = 1e-3  # relative error of readings, at least
ITERATIONS = 40  # of L-BFGS, for the errors and for the setting each
STAY = 1e-4  # weight of the way to the new setting, so that directions that change no output keep their values

Reading = tuple[Tensor, Tensor, Tensor]  # rows x, setting θ, readings y


class CopyModel:
    """`f(x; θ, w)` of a copy of a device, w its errors: `|w|² / 2s²` is their log-probability before any reading."""

    def __init__(self, model: nn.Module, spec: Declaration, radian: float) -> None:
        self.fitted = FittedModel(model)
        self.spec, self.radian = spec, radian
        self.start = self.fitted.weights().detach().clone()
        self.w = self.start.clone()
        self._check()
        self.unsure = torch.cat([_unsure(name, model, radian) for name in self.fitted.names])

    def _check(self) -> None:
        """Raise `IncompatibleError` for a model of another kind of device."""
        spec = self.spec
        x, theta = torch.zeros(1, 2, *spec.in_shape).to(self.start), torch.zeros(1, spec.theta.size).to(self.start)
        try:
            shape = tuple(self.fitted.answer(self.start, x, spec.theta.clamp(theta)).shape)
        except (RuntimeError, ValueError, IndexError) as error:
            raise IncompatibleError(f"this model does not answer for {spec.name}: {error!r:.100}") from error
        if shape != (1, 2, *spec.out_shape):
            raise IncompatibleError(f"this model answers {spec.name} in the shape {shape}")

    def to(self, like: Tensor) -> None:
        self.fitted.model.to(like)
        self.start, self.w, self.unsure = self.start.to(like), self.w.to(like), self.unsure.to(like)

    def learn(self, readings: Sequence[Reading], noise: float) -> None:
        """Set w to its most probable value, `min Σ|f − y|²/σ² + |w − w₀|²/s²`, σ = noise · rms(y)."""
        y = torch.stack([each[2] for each in readings])
        x = readings[0][0].expand(len(readings), *readings[0][0].shape)  # all readings are of the same rows
        thetas = torch.stack([each[1] for each in readings])
        size = (max(noise, EXACT) ** 2 * y.square().mean()).clamp_min(torch.finfo(y.dtype).tiny)

        def loss(v: Tensor) -> Tensor:
            left = (self.fitted.answer(self.start + self.unsure * v, x, thetas) - y).square().sum() / size
            return (left + v.square().sum()) / v.numel()

        self.w = self.start + self.unsure * _minimised(loss, (self.w - self.start) / self.unsure)

    def propose(self, x: Tensor, wanted: Tensor, theta: Tensor, gain: Tensor) -> Tensor:
        """Return the setting near θ (P,) at which `gain · f(x; θ)` is closest to the wanted outputs."""
        limits, size = _Limits(self.spec, theta), wanted.square().sum().clamp_min(torch.finfo(wanted.dtype).tiny)
        way = self.radian**2 * theta.numel()

        def loss(free: Tensor) -> Tensor:
            moved = limits.theta(free)
            left = (gain * self.fitted.answer(self.w, x, moved) - wanted).square().sum() / size
            return left + STAY * (moved - theta).square().sum() / way

        return self.spec.theta.clamp(limits.theta(_minimised(loss, limits.free(theta))))


def model_of(device: Device, surrogate: Surrogate | None = None) -> nn.Module | None:
    """Return a model of copies of this device, from the twin it was trained with or from its design; None without."""
    twin = surrogate.twin if isinstance(surrogate, CalibratedChip) else surrogate
    if isinstance(twin, Twin):
        return _copied(twin)
    drawn = device.drawing()
    inner = drawn if isinstance(drawn, Simulator) else unwrapped(device)
    for kind in (MeshTwin, ChipTwin, MicroringTwin, OffsetTwin):
        try:
            return kind(inner)
        except (ArgumentError, IncompatibleError):
            continue
    return None


def _copied(twin: Twin) -> nn.Module:
    """A copy of the twin's model whose errors are parameters again; a twin keeps them as buffers."""
    made = copy.deepcopy(twin.model)
    for name in twin._fitted.names:
        path, _, last = name.rpartition(".")
        module = made.get_submodule(path)
        value = module.get_buffer(last)
        delattr(module, last)
        module.register_parameter(last, nn.Parameter(value.detach().clone()))
    return made


def _unsure(name: str, model: nn.Module, radian: float) -> Tensor:
    """The standard deviation of the errors in one buffer of the model."""
    size = model.get_buffer(name).numel()
    return torch.full((size,), UNSURE * (radian if name.endswith("offset") else 1.0))


def _minimised(loss: Callable[[Tensor], Tensor], start: Tensor) -> Tensor:
    found = start.detach().clone().requires_grad_()
    optimizer = torch.optim.LBFGS(
        [found],
        max_iter=ITERATIONS,
        history_size=HISTORY,
        tolerance_grad=1e-9,
        tolerance_change=1e-12,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Any:
        with torch.enable_grad():
            value = loss(found)
        (found.grad,) = torch.autograd.grad(value, found)
        return value

    optimizer.step(closure)
    done = found.detach()
    return done if bool(done.isfinite().all()) else start.detach()
