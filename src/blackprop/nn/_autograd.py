"""The one place that knows autograd: a function whose forward asks a device and whose backward asks procedures."""

from __future__ import annotations

import math
from typing import Any, Protocol

import torch
from torch import Tensor

from blackprop.errors import SecondDerivativeError


class Rules(Protocol):
    """The methods of a layer that the function uses; rows (B, *in_shape) and (B, *out_shape), the setting (P,)."""

    def measure_rows(self, x: Tensor, setting: Tensor, wants_x: bool, wants_theta: bool) -> tuple[Tensor, int]: ...
    def grad_rows(self, x: Tensor, setting: Tensor, y: Tensor, grad_y: Tensor, observed: int) -> Tensor: ...
    def grad_theta(self, x: Tensor, setting: Tensor, y: Tensor, grad_y: Tensor) -> Tensor: ...


class BlackBox(torch.autograd.Function):
    """`y = f(x; θ)` forward; `∂L/∂x` and `∂L/∂θ` as the layer's rules find them, each only where it is required.

    Backward works at `setting`, θ as it was sent, so θ may have changed since: a layer may be used any number of times
    before one backward pass.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, theta: Tensor, rules: Rules, setting: Tensor, recording: bool) -> Tensor:
        wants_x, wants_theta = ctx.needs_input_grad[:2] if recording else (False, False)
        y, ctx.observed = rules.measure_rows(x, setting, wants_x, wants_theta)
        ctx.rules = rules
        ctx.save_for_backward(x, setting, y)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise SecondDerivativeError(
                "a black box has no second derivative: call backward or autograd.grad without `create_graph=True`"
            )
        (grad_y,) = grads
        x, setting, y = ctx.saved_tensors
        wants_x, wants_theta = ctx.needs_input_grad[:2]
        # A gradient of zero costs no query; nor does one that overflowed, which a loss scaler looks for and skips.
        peak = float(grad_y.abs().max()) if grad_y.numel() else 0.0
        known = 0.0 if peak == 0 else None if math.isfinite(peak) else math.nan
        grad_x = grad_theta = None
        with torch.autocast(grad_y.device.type, enabled=False):
            if wants_x:
                grad_x = (
                    ctx.rules.grad_rows(x, setting, y, grad_y, ctx.observed)
                    if known is None
                    else torch.full_like(x, known)
                )
            if wants_theta:
                asked = known is None
                grad_theta = ctx.rules.grad_theta(x, setting, y, grad_y) if asked else torch.full_like(setting, known)
        return grad_x, grad_theta, None, None, None
