"""A module inside a surrogate: its weights in one row, and its answers with other weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.func import functional_call

from blackprop.core._declaration import Declaration
from blackprop.errors import IncompatibleError


class FittedModel:
    """`model(x, θ; w)` as a function of w (n,), the parameters that require a gradient, in one row.

    All parameters of the module become buffers: they are saved and moved with it, and optimizers do not see them.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.names = tuple(name for name, value in model.named_parameters() if value.requires_grad)
        for module in model.modules():
            for name, value in list(module.named_parameters(recurse=False)):
                delattr(module, name)
                module.register_buffer(name, value.detach().clone())

    def weights(self) -> Tensor:
        values = [self.model.get_buffer(name).flatten() for name in self.names]
        return torch.cat(values) if values else torch.zeros(0)

    def write(self, w: Tensor) -> None:
        for name, value in self._named(w).items():
            self.model.get_buffer(name).copy_(value)

    def answer(self, w: Tensor, x: Tensor, theta: Tensor) -> Tensor:
        """Return the answer at one setting theta (P,), x (rows, *in_shape), or with settings stacked in front."""
        weights = self._named(w)
        if theta.dim() == 1 or getattr(self.model, "stacks", False):
            return functional_call(self.model, weights, (x, theta))
        return torch.vmap(lambda rows, setting: functional_call(self.model, weights, (rows, setting)))(x, theta)

    def gradient(self, w: Tensor, x: Tensor, y: Tensor, theta: Tensor, size: float) -> Tensor:
        """Return the gradient of `Σ|model − y|² / size` in w."""
        with torch.enable_grad():
            w = w.detach().requires_grad_()
            loss = (self.answer(w, x, theta) - y).square().sum() / size
        return torch.autograd.grad(loss, w)[0]

    def check(self, spec: Declaration) -> None:
        """Raise `IncompatibleError` for a device that this does not model."""
        meant = getattr(self.model, "declaration", None)
        if isinstance(meant, Declaration):
            _compare(type(self.model).__name__, meant, spec)
        like = next((b for b in self.model.buffers() if b.is_floating_point()), torch.zeros(()))
        x = torch.zeros(3, 2, *spec.in_shape).to(like)
        theta = spec.theta.clamp(torch.zeros(3, spec.theta.size)).to(like)
        w = self.weights()
        for rows, setting in ((x[0], theta[0]), (x, theta)):
            what = f"rows {tuple(rows.shape)} and settings {tuple(setting.shape)}"
            expected = (*rows.shape[: rows.dim() - len(spec.in_shape)], *spec.out_shape)
            try:
                with torch.no_grad():
                    y = self.answer(w, rows, setting)
            except (RuntimeError, ValueError, TypeError, IndexError) as error:
                reason = f"{what} of {spec.name} raise {error!r}"
            else:
                if isinstance(y, Tensor) and tuple(y.shape) == expected:
                    continue
                found = tuple(y.shape) if isinstance(y, Tensor) else type(y).__name__
                reason = f"{what} of {spec.name} give {found}, expected {expected}"
            raise IncompatibleError(f"`Twin(model=...)`: this {type(self.model).__name__} does not fit: {reason}")

    def _named(self, w: Tensor) -> dict[str, Tensor]:
        buffers = [self.model.get_buffer(name) for name in self.names]
        parts = w.split([buffer.numel() for buffer in buffers])
        return {name: part.view(old.shape) for name, part, old in zip(self.names, parts, buffers, strict=True)}


def _compare(name: str, meant: Declaration, spec: Declaration) -> None:
    """Raise `IncompatibleError` if a physical model belongs to another device."""
    for what, ours, theirs in (
        ("in_shape", meant.in_shape, spec.in_shape),
        ("out_shape", meant.out_shape, spec.out_shape),
        ("size of theta", meant.theta.size, spec.theta.size),
        ("period of theta", meant.theta.period, spec.theta.period),
    ):
        if ours != theirs:
            raise IncompatibleError(
                f"`{name}` is a twin of {meant.name} and not of {spec.name}: {what} {ours}, there {theirs}"
            )
    origin = torch.zeros(spec.theta.size)
    for ours, theirs in zip(meant.theta.bounds(origin), spec.theta.bounds(origin), strict=True):
        if not torch.equal(ours.expand(len(origin)), theirs.expand(len(origin))):
            raise IncompatibleError(f"`{name}` is a twin of {meant.name}, whose limits are not those of {spec.name}")
