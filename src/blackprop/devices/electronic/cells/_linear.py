"""Cells whose step is constant, or falls linearly with the weight."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from blackprop.devices.electronic.cells._cell import Cell, Normal, Population

SURE = 6.0  # standard deviations that a cell must stay from its bounds for its pulses to be added at once
FLAT = 1e-9  # a slope below which a step is constant


class AffineCell(Cell):
    """The common part: `Δ₊ = c₊ − a₊ w` and `Δ₋ = c₋ + a₋ w`, with the noise σ.

    If σ does not depend on w, any sequence of pulses is one affine map of w with one normal noise, as long as no bound
    is near. The cells near a bound are moved pulse by pulse.
    """

    @property
    def additive(self) -> bool:
        """Whether the noise of a step is independent of the weight."""
        return not getattr(self, "multiplicative", False)

    def law(self, up: Tensor, cells: Population) -> Population:
        kept = {name: cells[name] for name in ("low", "high")}
        size = torch.where(up, cells["up"], cells["down"])
        slope = torch.where(up, -cells["slope_up"], cells["slope_down"])
        noise = {"noise": torch.where(up, cells["noise_up"], cells["noise_down"])} if self.additive else {}
        return {**kept, **noise, "size": size, "slope": slope}

    def mean_step(self, w: Tensor, law: Population) -> Tensor:
        return torch.addcmul(law["size"], law["slope"], w)

    def deviation(self, mean: Tensor, w: Tensor, law: Population) -> Tensor:
        del w
        return law["noise"] if self.additive else self.noise * mean

    def moved(
        self, w: Tensor, x: Tensor, d: Tensor, cells: Population, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        if not self.additive:
            return super().moved(w, x, d, cells, generator)
        mean, variance, most, least, touched = self._without_bounds(w, x, d, cells)
        reach = SURE * variance.sqrt()
        free = (most + reach <= cells["high"]) & (least - reach >= cells["low"])
        result = mean + variance.sqrt() * torch.randn(w.shape, generator=generator)
        at = (touched & ~free).flatten().nonzero().squeeze(1)
        if len(at):
            some = {name: value.reshape(-1).index_select(0, at) for name, value in cells.items()}
            slow = w.flatten().index_select(0, at)
            for xs, ds in zip(x, d, strict=True):
                counts = (ds.mT @ xs).flatten().index_select(0, at)
                slow = self.one_by_one(slow, counts, some, generator)
            result = result.flatten().index_copy(0, at, slow).view(w.shape)
        return torch.where(touched, result, w), touched

    def _without_bounds(self, w: Tensor, x: Tensor, d: Tensor, cells: Population) -> tuple[Tensor, ...]:
        """The mean and variance of w after the trains; the largest and least mean on the way; the touched cells."""
        rise, fall = (cells[name].clamp_min(FLAT) for name in ("slope_up", "slope_down"))
        logs = torch.log1p(-rise.clamp_max(0.5)), torch.log1p(-fall.clamp_max(0.5))
        ends = cells["up"] / rise, -cells["down"] / fall  # to which pulses in one direction lead
        widths = (
            cells["noise_up"].square() / (2 * rise - rise * rise),
            cells["noise_down"].square() / (2 * fall - fall * fall),
        )
        steep = (rise > 0.5) | (fall > 0.5)
        mean, variance = w, torch.zeros_like(w)
        most, least, widest = w, w, variance
        touched = torch.zeros_like(w, dtype=torch.bool)
        for xs, ds in zip(x, d, strict=True):
            counts = ds.mT @ xs
            up = counts > 0
            touched |= counts != 0
            passed = counts.abs() * torch.where(up, *logs)
            mean = mean + (mean - torch.where(up, *ends)) * torch.expm1(passed)
            variance = variance + (variance - torch.where(up, *widths)) * torch.expm1(2 * passed)
            most, least, widest = torch.maximum(most, mean), torch.minimum(least, mean), torch.maximum(widest, variance)
        most = torch.where(steep, torch.inf, most)
        # The widest spread on the way decides whether a bound is near.
        extra = SURE * (widest.sqrt() - variance.sqrt())
        return mean, variance, most + extra, least - extra, touched

    def _with_noise(self, cells: Population, slope_up: Tensor, slope_down: Tensor) -> Population:
        noise = {"noise_up": self.noise * cells["up"], "noise_down": self.noise * cells["down"]}
        return {"slope_up": slope_up, "slope_down": slope_down, **noise}


@dataclass(frozen=True, kw_only=True)
class ConstantStep(AffineCell):
    """`Δ₊ = U`, `Δ₋ = D`: the step does not depend on the weight."""

    def _shaped(self, cells: Population, normal: Normal) -> Population:
        del normal
        flat = torch.zeros_like(cells["up"])
        return self._with_noise(cells, flat, flat)

    def _without_bounds(self, w: Tensor, x: Tensor, d: Tensor, cells: Population) -> tuple[Tensor, ...]:
        # The order of the trains does not matter: two products count the pulses of all of them.
        xs, ds = x.flatten(0, 1), d.flatten(0, 1)
        net, total = ds.mT @ xs, ds.abs().mT @ xs.abs()
        rises, falls = (total + net) / 2, (total - net) / 2
        mean = w + rises * cells["up"] - falls * cells["down"]
        variance = rises * cells["noise_up"].square() + falls * cells["noise_down"].square()
        return mean, variance, w + rises * cells["up"], w - falls * cells["down"], total > 0


@dataclass(frozen=True, kw_only=True)
class LinearStep(AffineCell):
    """`Δ₊ = U (1 − γ₊ w/b₊)`, `Δ₋ = D (1 − γ₋ w/b₋)`, with the mean bounds b.

    - `slope_up`, `slope_down` (default 0), `slope_spread` (default 0): γ₊ and γ₋, and the standard deviation of each
      from cell to cell; their signs are dropped.
    - `multiplicative` (default True): the noise scales with the whole step, and not with U and D.
    """

    slope_up: float = 0.0
    slope_down: float = 0.0
    slope_spread: float = 0.0
    multiplicative: bool = True

    def _shaped(self, cells: Population, normal: Normal) -> Population:
        rise = (self.slope_up + self.slope_spread * normal()).abs()
        fall = (self.slope_down + self.slope_spread * normal()).abs()
        rise = cells["up"] * rise / self.high if self.high else torch.zeros_like(rise)
        fall = -cells["down"] * fall / self.low if self.low else torch.zeros_like(fall)
        return self._with_noise(cells, rise, fall)


@dataclass(frozen=True, kw_only=True)
class SoftBounds(AffineCell):
    """`Δ₊ = U (1 − w/b₊)`, `Δ₋ = D (1 − w/b₋)`, with each cell's own bounds b: a step shrinks to 0 at the bound.

    The symmetric point, at which both are equal, is `(U − D)/(U/b₊ − D/b₋)`.

    - `multiplicative` (default False): the noise scales with the whole step, and not with U and D.
    """

    multiplicative: bool = False

    def _shaped(self, cells: Population, normal: Normal) -> Population:
        del normal
        return self._with_noise(cells, *soft_slopes(cells))


@dataclass(frozen=True, kw_only=True)
class SoftBoundsReference(AffineCell):
    """`SoftBounds` of the conductance w + ρ, where ρ is the conductance of a reference cell that is subtracted.

    - `reference` (default 0), `reference_spread` (default 0): ρ, its mean and standard deviation from cell to cell.
    - `centred` (default False): add each cell's symmetric point to ρ, so that ρ is its error.
    - `multiplicative` (default False): the noise scales with the whole step, and not with U and D.
    """

    reference: float = 0.0
    reference_spread: float = 0.0
    centred: bool = False
    multiplicative: bool = False

    def _shaped(self, cells: Population, normal: Normal) -> Population:
        rise, fall = soft_slopes(cells)
        offset = self.reference + self.reference_spread * normal()
        if self.centred:
            total = rise + fall
            offset = offset + torch.where(total > 0, (cells["up"] - cells["down"]) / total, 0.0)
        noise = self._with_noise(cells, rise, fall)
        moved = {"up": cells["up"] - rise * offset, "down": cells["down"] + fall * offset}
        return {**noise, **moved, "high": cells["high"] - offset, "low": cells["low"] - offset}


def soft_slopes(cells: Population) -> tuple[Tensor, Tensor]:
    """`U/b₊` and `−D/b₋`; 1 where a bound is 0, so that the cell rests there."""
    rise = torch.where(cells["high"] > 0, cells["up"] / cells["high"], 1.0)
    fall = torch.where(cells["low"] < 0, -cells["down"] / cells["low"], 1.0)
    return rise, fall
