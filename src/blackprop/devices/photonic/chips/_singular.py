"""A matrix by its singular values: two meshes, and a column of attenuators between them."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from blackprop.core._declaration import Cost
from blackprop.core._theta import ThetaSpec
from blackprop.core.capabilities._gains import Gains
from blackprop.core.capabilities._read_back import ReadBack
from blackprop.devices._simulator import Simulator
from blackprop.devices.photonic.chips._chip import Chip
from blackprop.devices.photonic.chips._losses import amplitudes
from blackprop.devices.photonic.chips._readout import Field
from blackprop.errors import ArgumentError


@final
class SVDMesh(Simulator):
    """`y = Re(L diag(s) R x)`: a mesh R, a column of K attenuators with the gains s, and a mesh L.

    θ has the settings of `right` first, then s, then those of `left`. A gain is an amplitude from −1 to 1, as a
    Mach–Zehnder attenuator has it; s starts from U(−1, 1), the meshes as they do by themselves. The errors and losses
    of both meshes hold here too, and are not declared.

    **Declares** `Gains`, a detector of amplitude and phase on either side of each attenuator, and `ReadBack`.

    **Arguments:**

    - `right`: a `Chip` with the readout `chips.Field()`, from the inputs to K outputs, which the attenuators take.
    - `left`: another, from K inputs to the outputs.
    - `cost` (default: that of `right`).

    **Raises** `ArgumentError` for meshes that do not fit together, or that are read in another way.

    Source: Shen et al., Nat. Photonics 11, 441 (2017); trained by its gains alone, arXiv 2110.14807.
    """

    right: Chip
    left: Chip

    stacks = True

    def __init__(self, right: Chip, left: Chip, *, cost: Cost | None = None) -> None:
        for name, chip in (("right", right), ("left", left)):
            if not isinstance(chip, Chip) or not isinstance(chip.readout, Field):
                raise ArgumentError(f"`SVDMesh({name}=...)` takes a `Chip` with the readout `Field()`, got {chip!r}")
        if right.out_shape != left.in_shape:
            raise ArgumentError(
                f"`SVDMesh` joins as many outputs of the right mesh as the left one has inputs, got {right} and {left}"
            )
        self.right, self.left = right, left
        self._parts = right.theta.size, *left.in_shape, left.theta.size
        super().__init__(
            right.in_shape,
            left.out_shape,
            self._spec(),
            linear=True,
            cost=cost if cost is not None else right.cost,
            capabilities=[ReadBack(), Gains(right.theta.size, *left.in_shape)],
        )

    def transfer(self, x: Tensor, theta: Tensor, /) -> Tensor:
        right, gains, left = theta.split(self._parts, -1)
        return self._behind(gains.unsqueeze(-2) * self._before(x, right), left).real.contiguous()

    def read_at_gains(self, x: Tensor, /) -> Tensor:
        """The fields (rows, 2, K) at the gains, of rows (rows, d_in + d_out) at the inputs and at the outputs."""
        if self._programmed is None:
            raise ArgumentError(f"{self} must be programmed before it is read")
        right, gains, left = self._programmed.split(self._parts)
        ahead, back = x.to(gains).split([*self.in_shape, *self.out_shape], -1)
        with torch.no_grad():
            unit = torch.eye(len(gains), dtype=gains.dtype, device=gains.device)
            met = self._before(ahead, right) + back.to(gains.dtype.to_complex()) @ self._behind(unit, left).mT
        return torch.stack((met.real, met.imag), 1).to(x)

    def setting_bytes(self, rows: int) -> int:
        return self.right.setting_bytes(rows) + self.left.setting_bytes(rows)

    def drawing(self) -> SVDMesh:
        """The device as designed, without the errors of its meshes."""
        return SVDMesh(self.right.drawing(), self.left.drawing(), cost=self.cost)

    def _before(self, x: Tensor, theta: Tensor) -> Tensor:
        """The field (..., rows, K) that arrives at the gains."""
        return _through(self.right, x, theta)

    def _behind(self, field: Tensor, theta: Tensor) -> Tensor:
        """The field (..., rows, d_out) at the outputs, of the field (..., rows, K) behind the gains."""
        return _through(self.left, field, theta)

    def _spec(self) -> ThetaSpec:
        right, left, count = self.right.theta, self.left.theta, self._parts[1]
        like, ends = torch.zeros(()), torch.full((count,), 1.0)
        limits = [
            torch.cat((first.expand(right.size), sign * ends, last.expand(left.size)))
            for sign, first, last in zip((-1, 1), right.bounds(like), left.bounds(like), strict=True)
        ]

        def initial(generator: torch.Generator) -> Tensor:
            drawn = torch.rand(count, generator=generator, device=generator.device)
            return torch.cat((right.draw(generator), 2 * drawn - 1, left.draw(generator)))

        return ThetaSpec(sum(self._parts), initial, low=limits[0], high=limits[1])


def _through(chip: Chip, x: Tensor, theta: Tensor) -> Tensor:
    """The complex amplitudes (..., rows, n_out) behind a chip's ports."""
    build = chip.build.to(theta)
    field = chip.field_with(x, theta, build)[..., : len(build.loss_out), :]
    return (amplitudes(build.loss_out).unsqueeze(-1) * field).mT
