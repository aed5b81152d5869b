"""Modules that read the weight of a layer elsewhere than in its own forward pass, and so cannot do without it."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping

from torch import nn

from blackprop.errors import SubstitutionError


def check_replaceable(name: str, model: nn.Module, modules: Mapping[str, nn.Module]) -> None:
    """Raise `SubstitutionError` where the model reads a parameter of the layer `name` outside of it."""
    old = modules[name]
    path, _, child = name.rpartition(".")
    parent = modules[path] if path else model
    if isinstance(parent, nn.MultiheadAttention):
        raise SubstitutionError(
            f"{name!r} cannot be replaced: `nn.MultiheadAttention` reads its weight and never calls it; write the "
            "attention with layers of its own for query, key, value and output, and replace those"
        )
    if (attribute := _read_by(parent, child)) and not isinstance(parent, nn.TransformerEncoderLayer):
        raise SubstitutionError(
            f"{name!r} cannot be replaced: the forward pass of its parent, {type(parent).__name__}, reads "
            f"`self.{child}.{attribute}`, and a device has none; change the parent so that it calls the layer"
        )
    own = {id(parameter): local for local, parameter in old.named_parameters()}
    inside = {id(module) for module in old.modules()}
    for other, module in modules.items():
        if id(module) in inside:
            continue
        for local, parameter in module.named_parameters(recurse=False):
            if id(parameter) in own:
                raise SubstitutionError(
                    f"{name!r} cannot be replaced: its {own[id(parameter)]} is tied to `{other}.{local}`, and a device "
                    "shares no weight; untie them first, by giving one of the two a parameter of its own"
                )


def leave_fast_path(name: str, modules: Mapping[str, nn.Module]) -> None:
    """Switch off the fused kernels of the transformer layers around `name`, which read its weight in `eval()`."""
    path = name
    while path:
        path = path.rpartition(".")[0]
        around = modules[path]
        if isinstance(around, nn.TransformerEncoderLayer):
            around.activation_relu_or_gelu = 0
        elif isinstance(around, nn.TransformerEncoder):
            around.use_nested_tensor = False


def _read_by(parent: nn.Module, child: str) -> str | None:
    """Which parameter of its child the parent's forward pass names, None where it names none or has no source."""
    try:
        source = inspect.getsource(type(parent).forward)
    except (OSError, TypeError):
        return None
    found = re.search(rf"self\.{re.escape(child)}\.(weight|bias)\b", source)
    return found[1] if found else None
