"""The state that a layer saves beside parameters and buffers, and the checkpoints that it accepts."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

from blackprop.core._budget import Budget
from blackprop.core._ledger import Ledger
from blackprop.core._packing import pack, unpack
from blackprop.devices import Device
from blackprop.errors import CheckpointError
from blackprop.nn._diagnostics import SignalMeter


class Layer(Protocol):
    """The part of a layer that this module uses."""

    device: Device
    signal: SignalMeter

    def state_dict(self, *, prefix: str) -> dict[str, Any]: ...


VERSION = 2  # of a layer's extra state; version 1 was a plain dictionary, and kept two values in buffers
FOREIGN = (KeyError, TypeError, ValueError, RuntimeError, AttributeError)  # raised by a state of something else


def for_another_device(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return a model's `state_dict` without the state of the devices on which it was trained.

    Layers that load it take over θ, gain, bias and the digital weights. They keep their own ledger, device state,
    surrogate and estimator, and learn their new device from the start. Use it to move a trained model to another
    device, or to one that is wrapped otherwise:

    >>> import torch, blackprop as bp
    >>> trained = bp.PhysicalLayer(bp.devices.Matrix(8, 6))
    >>> layer = bp.PhysicalLayer(bp.devices.Noisy(bp.devices.Matrix(8, 6), read=0.01))
    >>> layer.load_state_dict(bp.for_another_device(trained.state_dict()))
    <All keys matched successfully>

    - `state`: the dictionary that `state_dict()` returned; it is not changed.
    """
    kept = dict(state)
    for name, value in state.items():
        if name.endswith("_extra_state") and is_layer_state(content := unpack(value)):
            kept[name] = pack({"version": VERSION, "generator": content["generator"], "another_device": True})
    return kept


def is_layer_state(content: Mapping[str, Any]) -> bool:
    """Whether this is the extra state of a `PhysicalLayer`, and not that of another module."""
    return "generator" in content and ("device" in content or "another_device" in content)


def facts(device: Device) -> dict[str, Any]:
    """Return the properties in which the device of a checkpoint and the present one must agree."""
    spec = device.declaration
    limits = [None if limit is None else _ends(limit) for limit in (spec.theta.low, spec.theta.high)]
    return {
        "kind": device.kind,
        "in_shape": list(spec.in_shape),
        "out_shape": list(spec.out_shape),
        "parameters": spec.theta.size,
        "period": spec.theta.period,
        "limits": limits,
        "linear": spec.linear,
        "coupling": spec.coupling.value,
    }


def check_facts(saved: Mapping[str, Any], device: Device) -> None:
    """Raise `CheckpointError` where the checkpoint was written with a device that declares something else."""
    here = facts(device)
    differ = [name for name, value in here.items() if name in saved and saved[name] != value]
    if None in (saved.get("kind"), here["kind"]):  # the way to a device does not tell which kind stands at its end
        differ = [name for name in differ if name != "kind"]
    if differ:
        told = "; ".join(f"{name} {saved[name]}, here {here[name]}" for name in differ)
        raise CheckpointError(
            f"this checkpoint was written with another device than {device}: {told}. To carry the weights over and "
            "learn this device from the start, load `bp.for_another_device(state)`"
        )


def parsed(packed: object, device: Device) -> dict[str, Any]:
    """Return the content of a layer's extra state after a check, without changing the layer."""
    state = unpack(packed)
    version = state.get("version", 1)
    if version not in (1, VERSION):
        raise CheckpointError(f"this checkpoint has version {version}, and this library reads up to {VERSION}")
    try:
        restored_generator(**state["generator"])
        if "another_device" not in state:
            Ledger().load_state_dict(state["ledger"])
            state["device"].keys()
            if state["budget"] is not None:
                Budget().load_state_dict(state["budget"])
    except FOREIGN as error:
        raise CheckpointError(f"this is not the state of a layer around {device}: {error!r}") from error
    return state


def prepare(layer: Layer, state: dict[str, Any], prefix: str) -> None:
    """Refuse the entries of a foreign layer in `state`, and turn those of version 1 into those of today.

    A state for another device gets this layer's own entries of surrogate, estimator and signal.
    """
    key = f"{prefix}_extra_state"
    if key not in state:
        return
    content = parsed(state[key], layer.device)
    if "another_device" in content:
        for part in ("surrogate", "estimator", "signal", "theta_tracked"):
            for name in [name for name in state if name == prefix + part or name.startswith(f"{prefix}{part}.")]:
                del state[name]
        own = layer.state_dict(prefix=prefix)
        state.update({name: value for name, value in own.items() if name not in state})
        return
    if "version" not in content:
        content = _upgraded(content, state, prefix)
        state[key] = pack(content)
    check_facts(content.get("facts", {}), layer.device)
    layer.signal.thin(state, f"{prefix}signal.")
    restore_device(layer.device, content["device"])


def _upgraded(content: dict[str, Any], state: dict[str, Any], prefix: str) -> dict[str, Any]:
    """The content of version 1, whose `started` and `residual` were buffers."""
    started, residual = (state.pop(f"{prefix}{name}", None) for name in ("started", "residual"))
    residual = None if residual is None or float(residual) < 0 else float(residual)
    return {**content, "version": VERSION, "started": bool(started), "residual": residual}


def restore_device(device: Device, state: Mapping[str, Any]) -> None:
    try:
        device.load_state_dict(state)
    except FOREIGN as error:
        raise CheckpointError(
            f"this is not the state of {device}: {error!r}. To load the weights alone, `bp.for_another_device(state)`"
        ) from error


def saved_generator(generator: torch.Generator) -> dict[str, Any]:
    return {"device": generator.device.type, "state": generator.get_state()}


def restored_generator(device: str, state: Tensor) -> torch.Generator:
    """The saved generator; on a machine that lacks its torch device, one seeded from it."""
    try:
        generator = torch.Generator(device)
    except RuntimeError:
        return torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(state.numpy().tobytes()).digest()[:7]))
    generator.set_state(state.cpu())
    return generator


def _ends(limit: float | Tensor) -> list[float]:
    limit = torch.as_tensor(limit)
    return [float(limit.min()), float(limit.max())]
