"""A trained or untrained model, with some of its layers replaced by devices; its parameters, sorted; its bill."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from blackprop.core._ledger import Ledger
from blackprop.devices import Device
from blackprop.errors import SubstitutionError
from blackprop.nn._layer import PhysicalLayer
from blackprop.nn._readers import check_replaceable, leave_fast_path

Factory = Callable[[nn.Module], "PhysicalLayer | Device"]


def substitute(model: nn.Module, replacements: Mapping[str, Factory]) -> nn.Module:
    """Replace layers of `model` by qualified name, in place; returns the model.

    Each factory is called with the layer it replaces and returns a `PhysicalLayer`, or a device, which is put into one:

    >>> import torch, blackprop as bp
    >>> model = torch.nn.Sequential(torch.nn.Linear(8, 6), torch.nn.ReLU(), torch.nn.Linear(6, 3))
    >>> model = bp.substitute(model, {"0": lambda old: bp.devices.LightModulator(old.in_features, old.out_features)})
    >>> model[0].device
    LightModulator(8 -> 6, P = 48)

    Everything is checked before anything is changed: an unknown name lists the candidates, and a device of another
    width than the linear layer it would replace is refused. The new layer takes over the old one's place (torch
    device), mode and, if it is double, dtype.

    Refused, with the reason, are layers whose `weight` the model reads elsewhere: projections of
    `nn.MultiheadAttention`, weights that are tied to another layer's, children whose parent's `forward` reads
    `self.child.weight`. The feed-forward layers of `nn.TransformerEncoderLayer` are served; its fused fast path, which
    reads their weights in `eval()`, is switched off for that layer.
    """
    modules = dict(model.named_modules(remove_duplicate=False))
    for name in replacements:
        if name not in modules or not name:
            raise SubstitutionError(_unknown(name, modules))
    for name in replacements:
        for other in replacements:
            if other != name and other.startswith(f"{name}."):
                raise SubstitutionError(f"{other!r} lies inside {name!r}, and both would be replaced")
    for name in replacements:
        check_replaceable(name, model, modules)
    layers = {name: _layer(name, modules[name], factory) for name, factory in replacements.items()}
    for name, layer in layers.items():
        for alias, module in modules.items():
            if module is modules[name]:  # a layer that the model holds under several names stays one layer
                model.set_submodule(alias, layer)
                leave_fast_path(alias, modules)
    return model


def param_groups(model: nn.Module, lr: float, device_lr: float) -> list[dict[str, Any]]:
    """Return the groups of an optimizer: digital parameters at `lr`, the devices' θ at `device_lr`.

    θ has no weight decay, because θ = 0 is not a simpler setting than any other. The layers' gains form a group at
    `lr`, also without weight decay, because they only scale outputs. Empty groups are omitted.
    Give these groups to frameworks whose trainer would else decay all parameters alike, as in
    `transformers.Trainer(optimizers=(torch.optim.AdamW(bp.param_groups(...)), None))`.

    A θ that is parametrised or pruned (`torch.nn.utils`) is represented by the leaves that it is computed from.
    """
    layers = [module for module in model.modules() if isinstance(module, PhysicalLayer)]
    thetas = {id(p): p for layer in layers for p in _leaves(layer, "theta")}
    gains = {id(p): p for layer in layers for p in _leaves(layer, "gain")}
    digital = [p for p in model.parameters() if id(p) not in thetas and id(p) not in gains]
    groups = [
        {"params": digital, "lr": lr},
        {"params": list(gains.values()), "lr": lr, "weight_decay": 0.0},
        {"params": list(thetas.values()), "lr": device_lr, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def _leaves(layer: PhysicalLayer, name: str) -> list[nn.Parameter]:
    """The parameters that `name` is, or that `torch.nn.utils` computes it from."""
    computed = (f"{name}_", f"parametrizations.{name}.")  # weight_norm and prune; parametrize
    return [p for found, p in layer.named_parameters() if found == name or found.startswith(computed)]


def ledger(model: nn.Module) -> Ledger:
    """Return the sum of the ledgers of all physical layers of `model`."""
    return Ledger.sum({id(m.ledger): m.ledger for m in model.modules() if isinstance(m, PhysicalLayer)}.values())


def _layer(name: str, old: nn.Module, factory: Factory) -> PhysicalLayer:
    made = factory(old)
    layer = PhysicalLayer(made) if isinstance(made, Device) else made
    if not isinstance(layer, PhysicalLayer):
        raise SubstitutionError(
            f"the factory for {name!r} returned {type(made).__name__}, not a PhysicalLayer or a Device"
        )
    if isinstance(old, nn.Linear):
        widths, wanted = (layer.in_shape, layer.out_shape), ((old.in_features,), (old.out_features,))
        if widths != wanted:
            raise SubstitutionError(
                f"{name!r} maps {wanted[0]} to {wanted[1]}, and its device {widths[0]} to {widths[1]}"
            )
    place = next(old.parameters(), None)
    if place is not None:
        layer.to(place.device, torch.float64 if place.dtype == torch.float64 else None)
    return layer.train(old.training)


def _unknown(name: str, modules: Mapping[str, nn.Module]) -> str:
    if not name:
        return "the model itself has no name to replace it by; name one of its layers"
    linear = [n for n, m in modules.items() if n and isinstance(m, nn.Linear)]
    candidates = linear or [n for n in modules if n]
    near = difflib.get_close_matches(name, [n for n in modules if n], n=3)
    close = f" (near it: {', '.join(map(repr, near))})" if near else ""
    return f"the model has no layer {name!r}{close}; candidates: {', '.join(map(repr, candidates)) or 'none'}"
