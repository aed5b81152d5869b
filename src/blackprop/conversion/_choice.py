"""The choice of a programmer for a layer, and its checks."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from blackprop.conversion._base import Programmer
from blackprop.conversion._by_model import ByModel, mesh_model
from blackprop.conversion._by_pulses import ByPulses
from blackprop.conversion._by_queries import ByQueries
from blackprop.conversion._by_response import ByResponse
from blackprop.core._declaration import Coupling, Declaration
from blackprop.core.capabilities._pulse import Pulse
from blackprop.devices import Device
from blackprop.devices._declared import Declared
from blackprop.devices._wrapper import unwrapped
from blackprop.errors import ArgumentError, IncompatibleError
from blackprop.estimators import Estimator
from blackprop.surrogates import CalibratedResponse, Surrogate, Twin


def choose(device: Device, estimator: Estimator, surrogate: Surrogate) -> Programmer:
    """Choose the programmer for a device, by the layer's knowledge or the device's declaration.

    In this order: pulses, if they move it; its twin; its response curves, if it is a matrix of independent elements;
    the design of an ideal mesh; queries.
    """
    if device.declaration.has(Pulse):
        return ByPulses()
    if isinstance(surrogate, Twin):
        return ByModel(surrogate)
    if isinstance(surrogate, CalibratedResponse):
        return ByResponse(surrogate)
    if device.coupling is Coupling.ELEMENT:
        return ByResponse()
    inner = unwrapped(device, but=Declared)  # which may have renumbered the parameters
    if (model := mesh_model(inner)) is not None:
        return ByModel(model)
    return ByQueries(estimator if estimator.reads is None else None)


def check_wanted(weight: Tensor, spec: Declaration) -> None:
    """Raise an error for weights that this device cannot be programmed to."""
    require_matrix(spec, "a weight matrix can be programmed")
    expected = (spec.d_out, spec.d_in)
    if tuple(weight.shape) != expected:
        raise ArgumentError(
            f"the weights have shape {tuple(weight.shape)}, and {spec.name} is a matrix of shape {expected}"
        )
    if weight.dtype not in (torch.float32, torch.float64):
        raise ArgumentError(
            f"a device works in float32 or float64 and the weights are {weight.dtype}; convert them first"
        )
    if not bool(weight.isfinite().all()):
        index = tuple((~weight.isfinite()).nonzero()[0].tolist())
        raise ArgumentError(f"the weights are not finite: weight{list(index)} is {float(weight.detach()[index])}")
    if not bool(weight.any()):
        raise ArgumentError("the weights are all zero, which needs no programming; use `PhysicalLayer(device)`")


def check_linear(linear: object) -> None:
    """Raise `ArgumentError` unless `linear` is a linear layer with weights."""
    if not isinstance(linear, nn.Linear):
        hint = "; give an object and not its class" if isinstance(linear, type) else ""
        raise ArgumentError(f"`from_linear(linear, ...)` takes a torch.nn.Linear, got {linear!r}{hint}")
    if is_lazy(linear.weight):
        raise ArgumentError("`from_linear(linear, ...)`: this layer is lazy and has no weights yet; run it once")


def require_matrix(spec: Declaration, what: str) -> None:
    """Raise `IncompatibleError` unless the device is declared a matrix."""
    if not spec.linear or not spec.of_vectors:
        raise IncompatibleError(f"{spec.name} is not declared linear, from vectors to vectors: only there {what}")
