"""A model whose outputs are corrected by a network that learns the systematic errors of the device."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from blackprop.core._declaration import Declaration
from blackprop.devices import Simulator
from blackprop.errors import ArgumentError, ShapeError
from blackprop.twins._physical import PhysicalTwin


class ErrorNetwork(nn.Module):
    """`y = m + C z + V tanh(W z + b)`, `m = model(x, θ)`, `z = [m, x]`: a design and a network of its errors.

    At first C and V are 0, and y is that of the design. In `surrogates.Twin` with `fit_steps=0` the network is fitted
    to the readings of every training batch, and both gradients pass through the design and the network: this is
    **dual adaptive training**. It needs no query beyond the forward pass and no parametrisation of the errors. A
    parametrised model, as `MeshTwin`, calibrated by queries of its own, is more accurate where it is known.

    **Arguments:**

    - `model`: a `Simulator`, as the design of the device without errors, or a model as `Twin` takes it.
    - `hidden` (default: as many as outputs): the rows of W; 0 for a linear correction.
    - `seed` (default 0): of W, U(±1/√(d_out + d_in)), and b = 0.

    Source: Zheng et al., Nature Machine Intelligence 5, 1119 (2023), whose error networks are convolutions between the
    layers of a system that is read at each of them.
    """

    def __init__(self, model: nn.Module | Simulator, *, hidden: int | None = None, seed: int = 0) -> None:
        super().__init__()
        if isinstance(model, Simulator):
            model = AsDesigned(model)
        meant = getattr(model, "declaration", None)
        if not isinstance(model, nn.Module) or not isinstance(meant, Declaration):
            raise ArgumentError(
                f"`ErrorNetwork(model)` takes a Simulator or a model with a `declaration`, got {model!r}"
            )
        if not meant.of_vectors:
            raise ShapeError(f"`ErrorNetwork(model)` corrects vectors, and {meant.name} gives others")
        width, both = meant.d_out, meant.d_out + meant.d_in
        hidden = width if hidden is None else hidden
        if hidden < 0:
            raise ArgumentError(f"`ErrorNetwork(hidden=...)` must not be negative, got {hidden}")
        generator = torch.Generator().manual_seed(seed)
        self.model = model
        self.stacks: bool = getattr(model, "stacks", False)
        self.linear: nn.Parameter = nn.Parameter(torch.zeros(both, width))
        self.inner: nn.Parameter = nn.Parameter((2 * torch.rand(both, hidden, generator=generator) - 1) / both**0.5)
        self.bias: nn.Parameter = nn.Parameter(torch.zeros(hidden))
        self.outer: nn.Parameter = nn.Parameter(torch.zeros(hidden, width))

    @property
    def declaration(self) -> Declaration:
        """The declaration of the modelled device."""
        return self.model.declaration  # pyright: ignore[reportReturnType]  # it was checked

    def forward(self, x: Tensor, theta: Tensor) -> Tensor:
        m = self.model(x, theta)
        z = torch.cat((m, x.expand(*m.shape[:-1], x.shape[-1])), -1)
        return m + z @ self.linear + (z @ self.inner + self.bias).tanh() @ self.outer


class AsDesigned(PhysicalTwin):
    """A simulator as a model, without unknown errors."""

    def forward(self, x: Tensor, theta: Tensor) -> Tensor:
        return self.design.transfer(x, theta)
