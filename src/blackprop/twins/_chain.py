"""A model of devices in series: a model of each, one after the other."""

from __future__ import annotations

from torch import Tensor, nn

from blackprop.core._declaration import Declaration
from blackprop.devices._base import Device
from blackprop.devices._chain import Chain
from blackprop.errors import ArgumentError


class ChainTwin(nn.Module):
    """`m_n(… σ(m_2(σ(m_1(x, θ_1)), θ_2)) …, θ_n)`: the models of a chain's devices in series, with its maps between
    them.

    Its activations are digital: only the output of the chain is read. In `surrogates.Twin` with `fit_steps=0,
    online_steps=0` it gives output-only error: the error of the physical output, pulled back through the models'
    Jacobians at the digital activations. Otherwise all models are fitted together, to the output alone.

    **Arguments:**

    - `device`: the chain, of which only sizes and maps are read.
    - `models`: one for each device in order, as `Twin` takes them.
    """

    def __init__(self, device: Chain, *models: nn.Module) -> None:
        super().__init__()
        if not isinstance(device, Chain):
            raise ArgumentError(f"`ChainTwin(device, ...)` takes a Chain, got {device!r}")
        if len(models) != len(device.devices):
            raise ArgumentError(
                f"`ChainTwin` takes a model of each of {len(device.devices)} devices, got {len(models)}"
            )
        for part, model in zip(device.devices, models, strict=True):
            _check(part, model)
        self.chain = device
        self.models: nn.ModuleList = nn.ModuleList(models)
        self.stacks: bool = all(getattr(model, "stacks", False) for model in models)

    @property
    def declaration(self) -> Declaration:
        """The declaration of the modelled device."""
        return self.chain.declaration

    def forward(self, x: Tensor, theta: Tensor) -> Tensor:
        pairs = zip(self.models, self.chain.settings(theta), strict=True)
        for part in self.chain.parts:
            if isinstance(part, Device):
                model, setting = next(pairs)
                x = model(x, setting)
            else:
                x = part(x)
        return x


def _check(part: Device, model: nn.Module) -> None:
    """Raise `ArgumentError` for a model of another device; the `Twin` tries a model that does not name its device."""
    if not isinstance(model, nn.Module):
        raise ArgumentError(f"`ChainTwin(device, *models)` takes Modules with `forward(x, theta)`, got {model!r}")
    meant = getattr(model, "declaration", None)
    if isinstance(meant, Declaration) and (meant.in_shape, meant.out_shape, meant.theta.size) != (
        part.in_shape,
        part.out_shape,
        part.theta.size,
    ):
        raise ArgumentError(f"`ChainTwin(device, *models)`: {type(model).__name__} of {meant.name} is given for {part}")
