"""Digital adapters: corrections beside a device that drifts and is not written again."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from blackprop.core._packing import pack, unpack
from blackprop.core._procedure import read
from blackprop.core._query import Purpose, Query
from blackprop.errors import ArgumentError
from blackprop.nn import PhysicalLayer

SWEEPS = 5  # over scales and correction
RIDGE = 1e-3  # of the mean power of the inputs
CHECKED = 4  # one row of so many is not fitted, and judges the fit


@dataclass(frozen=True, eq=False)
class KeptAdapter:
    """An adapter of a set: its age (s), the residual of the bare device for which it was fitted, and its numbers."""

    age: float | None
    residual: float
    state: dict[str, Tensor]


class Adapter(nn.Module):
    """`y = s ⊙ gain f(x; θ) + L R x + bias`: a physical layer that stays as it is, with a digital correction beside it.

    s is one scale, or one for each output (global drift compensation); L R has rank r, 0 for none. θ is frozen, so that
    neither training nor `fit` writes to the device. s, L and R are parameters: any training adapts them, and `fit` does
    so without labels and gradients, from the outputs that the layer gave when `remember` was called:

    `min |s ⊙ y + L R x − y₀|²`, in turn for s, by least squares of each output, and for L R, the best matrix of rank
    r for these rows (reduced-rank regression).

    A fit is kept only where one row of four, which it does not use, is closer to the outputs of then.

    **Costs** of `remember`, `fit` and `residual`: the rows, and no programming as long as the device holds its setting;
    booked as `CALIBRATE`.

    **Arguments:**

    - `layer`: a `PhysicalLayer` from vectors to vectors.
    - `rank` (default 0): r, at most the smaller of its widths.
    - `per_output` (default True): a scale for each output.

    **Raises** `ArgumentError` for other layers and ranks.

    >>> import torch, blackprop as bp
    >>> adapter = bp.Adapter(bp.PhysicalLayer(bp.devices.Microring(64, 32)), rank=1)
    >>> adapter.remember(torch.randn(200, 64))
    >>> f"{adapter.share:.1%} of the weights"
    '6.2% of the weights'
    """

    scale: nn.Parameter
    left: nn.Parameter
    right: nn.Parameter

    def __init__(self, layer: PhysicalLayer, rank: int = 0, *, per_output: bool = True) -> None:
        super().__init__()
        if not isinstance(layer, PhysicalLayer) or len(layer.in_shape) != 1 or len(layer.out_shape) != 1:
            raise ArgumentError(f"`Adapter(layer)` takes a PhysicalLayer from vectors to vectors, got {layer!r:.80}")
        (d_in,), (d_out,) = layer.in_shape, layer.out_shape
        if not 0 <= rank <= min(d_in, d_out):
            raise ArgumentError(f"`Adapter(rank=...)` must be between 0 and {min(d_in, d_out)}, got {rank}")
        self.layer = layer
        like = layer.theta.detach()
        self.scale = nn.Parameter(like.new_ones(d_out if per_output else 1))
        self.left = nn.Parameter(like.new_zeros(d_out, rank))
        self.right = nn.Parameter(like.new_zeros(rank, d_in))
        if rank:  # as in low-rank adaption: the correction is zero at first, and its gradient is not
            draw = torch.randn(rank, d_in, generator=torch.Generator().manual_seed(0)) / math.sqrt(d_in)
            self.right.data.copy_(draw)
        self.kept: list[KeptAdapter] = []
        self._rows: Tensor | None = None
        self._outputs: Tensor | None = None  # of then, gain included
        layer.theta.requires_grad_(False)

    @property
    def share(self) -> float:
        """The adapter's parameters, as a part of the matrix elements of the layer."""
        return sum(p.numel() for p in (self.scale, self.left, self.right)) / (self.left.shape[0] * self.right.shape[1])

    def forward(self, x: Tensor) -> Tensor:
        bias = self.layer.bias
        y = self.layer(x)
        bare = y if bias is None else y - bias
        y = self.scale * bare + (x.to(bare.dtype) @ self.right.mT) @ self.left.mT
        return y if bias is None else y + bias

    @torch.no_grad()
    def remember(self, x: Tensor) -> None:
        """Read rows x (k, d_in), k at least 8, and keep their outputs as those to come back to."""
        rows = x.reshape(-1, *self.layer.in_shape).to(self.layer.theta.dtype)
        if len(rows) < 2 * CHECKED:
            raise ArgumentError(f"`Adapter.remember(x)` takes at least {2 * CHECKED} rows, got {len(rows)}")
        self._rows, self._outputs = rows.clone(), self._read(rows)

    @torch.no_grad()
    def fit(self) -> tuple[float, float]:
        """Fit scales and correction to the device as it is; return the residual before and after, of the check rows.

        The residual is `|s ⊙ y + L R x − y₀| / |y₀|`. Without improvement the adapter stays as it was.
        """
        x, wanted = self._remembered()
        y = self._read(x)
        check = torch.zeros(len(x), dtype=torch.bool)
        check[::CHECKED] = True
        fit = ~check
        before = self._off(x[check], y[check], wanted[check])
        old = [p.detach().clone() for p in (self.scale, self.left, self.right)]
        self._fit(x[fit], y[fit], wanted[fit])
        after = self._off(x[check], y[check], wanted[check])
        if not after < before:
            for parameter, value in zip((self.scale, self.left, self.right), old, strict=True):
                parameter.copy_(value)
            after = before
        return before, after

    @torch.no_grad()
    def residual(self) -> float:
        """Read the remembered rows again: how far the bare device is from its outputs of then, relative."""
        x, wanted = self._remembered()
        return float((self._read(x) - wanted).norm() / wanted.norm().clamp_min(torch.finfo(wanted.dtype).tiny))

    def keep(self, age: float | None = None) -> KeptAdapter:
        """Add the present adapter to the set, under an age (s) and the residual that is measured now."""
        state = {name: getattr(self, name).detach().clone() for name in ("scale", "left", "right")}
        self.kept.append(KeptAdapter(age, self.residual(), state))
        return self.kept[-1]

    @torch.no_grad()
    def choose(self, age: float | None = None) -> KeptAdapter:
        """Take the adapter of the set that is nearest in the logarithm of the age; without one, in the residual.

        The residual is measured now, for the remembered rows. **Raises** `ArgumentError` for an empty set.
        """
        some = [each for each in self.kept if age is None or each.age is not None]
        if not some:
            raise ArgumentError("`Adapter.choose()`: the set is empty; `fit` and `keep(age)` make adapters")
        if age is None:
            here = self.residual()
            found = min(some, key=lambda each: abs(each.residual - here))
        else:
            found = min(some, key=lambda each: abs(math.log1p(each.age or 0.0) - math.log1p(age)))
        for name, value in found.state.items():
            getattr(self, name).copy_(value)
        return found

    def _fit(self, x: Tensor, y: Tensor, wanted: Tensor) -> None:
        """Alternate between the scales and the correction; each is the best for the other, by least squares."""
        self.left.zero_()
        for _ in range(SWEEPS if self.left.shape[1] else 1):
            self._fit_scale(y, wanted - (x @ self.right.mT) @ self.left.mT)
            if self.left.shape[1]:
                self._fit_correction(x, wanted - self.scale * y)

    def _fit_scale(self, y: Tensor, wanted: Tensor) -> None:
        power, shared = y.square().sum(0), (y * wanted).sum(0)
        if len(self.scale) == 1:
            power, shared = power.sum(), shared.sum()
        found = (shared / power.clamp_min(torch.finfo(power.dtype).tiny)).where(power > 0, torch.ones_like(power))
        self.scale.copy_(found.expand_as(self.scale))

    def _fit_correction(self, x: Tensor, wanted: Tensor) -> None:
        rows, left = x.double(), wanted.double()
        gram = rows.mT @ rows
        gram += RIDGE * gram.diagonal().mean() * torch.eye(len(gram)).to(gram)
        matrix = torch.linalg.solve(gram, rows.mT @ left)  # (d_in, d_out)
        values, vectors = torch.linalg.eigh((rows @ matrix).mT @ (rows @ matrix))
        main = vectors[:, values.argsort(descending=True)[: self.left.shape[1]]]  # outputs that this rank explains best
        self.left.copy_(main)
        self.right.copy_((matrix @ main).mT)

    def _off(self, x: Tensor, y: Tensor, wanted: Tensor) -> float:
        found = self.scale * y + (x @ self.right.mT) @ self.left.mT
        return float((found - wanted).norm() / wanted.norm().clamp_min(torch.finfo(wanted.dtype).tiny))

    def _read(self, x: Tensor) -> Tensor:
        layer = self.layer
        theta = layer.device.theta.clamp(layer.theta.detach().clone())
        y = layer.gain.detach() * layer._run(read(Query(x, theta, Purpose.CALIBRATE)))
        return y if layer.digital is None else y + layer.digital(x).detach()

    def _remembered(self) -> tuple[Tensor, Tensor]:
        if self._rows is None or self._outputs is None:
            raise ArgumentError("the adapter remembers no outputs: call `remember(x)` while the device is as trained")
        return self._rows, self._outputs

    def get_extra_state(self) -> Tensor:
        kept = [{"age": each.age, "residual": each.residual, "state": each.state} for each in self.kept]
        return pack({"rows": self._rows, "outputs": self._outputs, "kept": kept})

    def set_extra_state(self, state: object) -> None:
        content = unpack(state)
        self._rows, self._outputs = content["rows"], content["outputs"]
        self.kept = [KeptAdapter(each["age"], each["residual"], each["state"]) for each in content["kept"]]

    def extra_repr(self) -> str:
        return f"rank={self.left.shape[1]}, {self.share:.2%} of the weights, {len(self.kept)} kept"
