"""A module of PyTorch as a black box."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from blackprop.core.capabilities._capability import Shape
from blackprop.devices import Device, from_callable
from blackprop.errors import ArgumentError


def from_module(
    module: nn.Module, *, in_shape: int | Shape, parameters: Iterable[str] | None = None, **declared: Any
) -> Device:
    """Make a device of `module`: `y = module(x)` with θ in place of its parameters, and without autograd.

    Use it to try a method on a model of which the exact gradient is known, or to hide a differentiable simulator of
    another library, such as an analogue tile, behind the interface of a device. The module is put into `eval()` and
    read with its buffers as they are. Its own parameters are not changed.

    **Costs** a forward pass of the module for each query.

    **Arguments:**

    - `module`: takes rows `(rows, *in_shape)` and returns `(rows, *out_shape)`.
    - `in_shape`: the shape of a row. The shape of a reading is found by reading one row of zeros.
    - `parameters` (default None, all): the names of the parameters that form θ, in this order, each flattened.
    - `declared`: further arguments of `devices.from_callable`, such as `low`, `high`, `linear`, `cost`. `initial` is by
      default the present value of the parameters.

    **Raises** `ArgumentError` for a name that the module does not have, and for a module without parameters.

    >>> import torch, blackprop as bp
    >>> device = bp.foreign.from_module(torch.nn.Linear(4, 3, bias=False), in_shape=4, linear=True)
    >>> bp.PhysicalLayer(device)(torch.zeros(5, 4)).shape
    torch.Size([5, 3])
    """
    owned = dict(module.named_parameters())
    names = list(owned) if parameters is None else list(parameters)
    if missing := [name for name in names if name not in owned]:
        raise ArgumentError(f"`from_module(parameters=...)`: no parameter {missing[0]!r}; there are {', '.join(owned)}")
    if not names:
        raise ArgumentError("`from_module(module)` takes a module with parameters: they are θ")
    module.eval()
    sizes = [owned[name].numel() for name in names]
    ends = [sum(sizes[:k]) for k in range(len(sizes) + 1)]
    start = torch.cat([owned[name].detach().flatten() for name in names])

    def transfer(x: Tensor, theta: Tensor) -> Tensor:
        parts = zip(names, pairwise(ends), strict=True)
        values = {name: theta[first:last].to(owned[name]).view_as(owned[name]) for name, (first, last) in parts}
        with torch.no_grad():
            return functional_call(module, values, (x.to(start),))

    transfer.__name__ = type(module).__name__
    shape = (in_shape,) if isinstance(in_shape, int) else tuple(in_shape)
    declared.setdefault("initial", lambda generator: start.to("cpu", torch.get_default_dtype(), copy=True))
    out_shape = tuple(transfer(torch.zeros(1, *shape), start).shape[1:])
    return from_callable(transfer, in_shape=in_shape, out_shape=out_shape, theta_size=ends[-1], **declared)
