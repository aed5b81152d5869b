"""Digital gains at the ports of a device, which correct a copy of it without a setting."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, final

import torch
from torch import Tensor

from blackprop.core._query import Purpose
from blackprop.devices import Device
from blackprop.devices._wrapper import Wrapper
from blackprop.errors import ShapeError

SWEEPS = 20  # of the alternating least squares
RIDGE = 1e-3  # of the mean power, towards gains of 1


@final
class PortGains(Wrapper):
    """`y = g_out ⊙ f(g_in ⊙ x; θ)`: a device with a digital gain at every input and every output.

    A linear device stays linear. Capabilities of the device inside do not survive.

    **Arguments:**

    - `device`: the device. Rows outside the limits of its inputs are refused as before, after the gains.
    - `inputs` (d_in,), `outputs` (d_out,): the gains.

    **Raises** `ShapeError` for gains of another number.

    >>> import torch, blackprop as bp
    >>> bp.deployment.PortGains(bp.devices.Matrix(3, 2), torch.ones(3), torch.tensor([1.0, 0.9]))
    PortGains(Matrix(3 -> 2, P = 6))
    """

    def __init__(self, device: Device, inputs: Tensor, outputs: Tensor) -> None:
        super().__init__(device)
        self.inputs: Tensor = _fitting("inputs", inputs, device.in_shape)
        self.outputs: Tensor = _fitting("outputs", outputs, device.out_shape)

    def _drive(self, x: Tensor) -> Tensor:
        return x * self.inputs.to(x)

    def _sense(self, y: Tensor, purpose: Purpose) -> Tensor:
        del purpose
        return y * self.outputs.to(y)

    def oracle(self) -> Callable[[Tensor, Tensor], Tensor] | None:
        inner = super().oracle()
        return None if inner is None else lambda x, theta: self.outputs.to(x) * inner(x * self.inputs.to(x), theta)

    def drawing(self) -> Device | None:
        return None  # its answers are not those of this device

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "inputs": self.inputs, "outputs": self.outputs}

    def load_state_dict(self, state: Mapping[str, Any], /) -> None:
        inputs = _fitting("inputs", state["inputs"], self.in_shape)
        outputs = _fitting("outputs", state["outputs"], self.out_shape)
        super().load_state_dict(state)
        self.inputs, self.outputs = inputs, outputs


def port_gains(x: Tensor, y: Tensor, wanted: Tensor, *, inputs: bool) -> tuple[Tensor, Tensor]:
    """Return g_in (d_in,) and g_out (d_out,) with the least `|g_out ⊙ A (g_in ⊙ x) − wanted|²`, for rows in vectors.

    A is the least-squares matrix of the readings y of the rows x; alternating least squares, with a small ridge towards
    gains of 1. Without `inputs`, g_in is 1 and A is not needed, so that the device need not be linear.
    """
    g_in, g_out = x.new_ones(x.shape[1]), y.new_ones(y.shape[1])
    if not inputs:
        return g_in, _ratio(y, wanted)
    A = torch.linalg.lstsq(x.double(), y.double(), driver="gelsd").solution if x.device.type == "cpu" else _solved(x, y)
    X, W, a, b = x.double(), wanted.double(), g_in.double(), g_out.double()
    for _ in range(SWEEPS):
        b = _ratio((X * a) @ A, W)
        # wanted_ro = Σ_i a_i x_ri A_io b_o: normal equations in a
        B = A * b
        gram = (X.mT @ X) * (B @ B.mT)
        ridge = RIDGE * gram.diagonal().mean()
        right = ((X.mT @ W) * B).sum(1)
        a = torch.linalg.solve(gram + ridge * torch.eye(len(a)).to(gram), right + ridge)
    return a.to(x), _ratio((X * a) @ A, W).to(y)


def _ratio(y: Tensor, wanted: Tensor) -> Tensor:
    """The gain of each output, `⟨wanted, y⟩ / ⟨y, y⟩`, with the ridge."""
    power = y.square().sum(0)
    ridge = RIDGE * power.mean().clamp_min(torch.finfo(y.dtype).tiny)
    return ((wanted * y).sum(0) + ridge) / (power + ridge)


def _solved(x: Tensor, y: Tensor) -> Tensor:
    return torch.linalg.pinv(x.double()) @ y.double()


def _fitting(name: str, gains: Tensor, shape: tuple[int, ...]) -> Tensor:
    if tuple(gains.shape) != shape:
        raise ShapeError(f"`PortGains({name}=...)` must have shape {shape}, got {tuple(gains.shape)}")
    return gains.detach().clone()
