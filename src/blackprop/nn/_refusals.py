"""Uses of a layer that cannot work, each refused in one sentence that names the way out."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor
from torch.autograd import forward_ad

from blackprop.errors import ArgumentError, IncompatibleError, ShapeError
from blackprop.estimators.pulsed._base import PulsedUpdate

FLOATS = (torch.float32, torch.float64)
PULSES_WAIT = (
    "a backward pass waits for its pulses, which belong to the present weights: call `optimizer.step()`, or "
    "`optimizer.zero_grad()` to drop them, before `{}`"
)
NO_GRAPH = "a device is measured and cannot be traced: convert the layer with `to_linear()` first"
NO_WEIGHT = (
    "a `PhysicalLayer` has no `weight`: its matrix is inside the device. A module that reads its child's weight cannot "
    "use one; `to_linear()` gives a digital layer with the weights as measured"
)


def off_meta() -> AbstractContextManager[object]:
    """A context in which new tensors hold numbers: on the CPU, where PyTorch would make them on `meta`."""
    return torch.device("cpu") if torch.get_default_device().type == "meta" else nullcontext()


def check_execution(*tensors: Tensor) -> None:
    """Raise where PyTorch is tracing or transforming the model in place of running it."""
    if torch._C._are_functorch_transforms_active():  # pyright: ignore[reportPrivateUsage, reportAttributeAccessIssue]
        raise IncompatibleError(
            "`torch.func` and `vmap` cannot transform a device: put the mapped dimension into the batch dimension, use "
            "`backward()`, or convert the layer with `to_linear()`"
        )
    for tensor in tensors if forward_ad._current_level >= 0 else ():
        if forward_ad.unpack_dual(tensor).tangent is not None:
            raise IncompatibleError(
                "a device has no forward-mode derivative: use `backward()`, or convert the layer with `to_linear()`"
            )
    if torch.compiler.is_exporting():
        raise IncompatibleError(f"`torch.export`: {NO_GRAPH}")
    if torch.jit.is_tracing():  # pyright: ignore[reportPrivateImportUsage]
        raise IncompatibleError(f"`torch.jit.trace`: {NO_GRAPH}")
    for tensor in tensors:
        if tensor.is_meta:
            raise ArgumentError(
                "a device cannot read tensors on `meta`, which hold no numbers: move the model with "
                "`to_empty(device=...)` and load its weights, and give it rows with numbers"
            )


def check_rows(x: Tensor, shape: tuple[int, ...], dtype: torch.dtype, name: object) -> None:
    """Raise unless `x` (..., *shape) can be sent to a device by a layer of this dtype without loss."""
    kept = x.dim() - len(shape)
    if kept < 0 or tuple(x.shape[kept:]) != shape:
        raise ShapeError(f"{name} takes rows of shape {shape}, got an input of {tuple(x.shape)}")
    if dtype not in FLOATS:
        raise ArgumentError(
            f"a device works in float32 or float64 and this layer was cast to {dtype}; for mixed precision leave the "
            "model in float32 and use autocast"
        )
    if x.is_complex():
        raise ArgumentError(
            f"{name} takes real rows, got {x.dtype}: give the real and imaginary parts as separate inputs "
            "(`torch.view_as_real`)"
        )
    if not x.is_floating_point():
        raise ArgumentError(
            f"{name} takes rows of floating point numbers, got {x.dtype}: convert them with `x.float()`"
        )
    if x.dtype == torch.float64 and dtype == torch.float32:
        raise ArgumentError(
            f"the input is float64 and the layer around {name} is float32: convert one of them, with `x.float()` or "
            "`layer.double()`"
        )


def refuse_waiting_pulses(estimator: object, theta: Tensor, what: str) -> None:
    """Raise `ArgumentError` if pulses of a backward pass wait for the optimizer's step."""
    if isinstance(estimator, PulsedUpdate) and estimator.waiting and theta.grad is not None:
        raise ArgumentError(PULSES_WAIT.format(what))
