"""A module as a function of its input and of all its parameters in one row."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.func import functional_call

from blackprop.errors import ArgumentError


class Flattened:
    """`flat(x, theta)`: evaluates `module(x)` with the parameters theta (P,), in the order of `module.parameters()`.

    The module's own parameters are unchanged; `torch.nn.utils.vector_to_parameters(theta, module.parameters())` writes
    them.

    - `module`: an `nn.Module` with at least one parameter.

    **Raises** `ArgumentError` for any other object.
    """

    def __init__(self, module: nn.Module) -> None:
        if not isinstance(module, nn.Module):
            raise ArgumentError(f"a model with parameters is a torch Module, got {module!r}")
        self.module = module
        self._shapes = {name: value.shape for name, value in module.named_parameters()}
        self.size = sum(shape.numel() for shape in self._shapes.values())
        if not self.size:
            raise ArgumentError(f"{type(module).__name__} has no parameter that could be trained")

    def initial(self) -> Tensor:  # (P,)
        """Return the module's own parameters."""
        return torch.cat([value.detach().flatten() for value in self.module.parameters()])

    def __call__(self, x: Tensor, theta: Tensor) -> Tensor:
        parts = theta.split([shape.numel() for shape in self._shapes.values()])
        named = {name: part.view(shape) for part, (name, shape) in zip(parts, self._shapes.items(), strict=True)}
        return functional_call(self.module, named, (x,))
