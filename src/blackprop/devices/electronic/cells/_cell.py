"""The base class of cells: their common properties, and how an array of them is drawn and moved."""

from __future__ import annotations

import abc
import math
from collections.abc import Callable
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from blackprop.errors import ArgumentError

Population = dict[str, Tensor]
"""The drawn properties of the cells of an array, each of its shape."""
Normal = Callable[[], Tensor]
"""Draws one standard normal number for each cell."""

SMALL = 2048  # cells below which those that have no further pulse are masked, and not left out
THINNED = 0.7  # part of the cells below which the others are left out


@dataclass(frozen=True, kw_only=True)
class Cell(abc.ABC):
    """A kind of cell; steps and bounds in units of the weight.

    Every cell draws, with n ~ N(0, 1) of its own for each: its bounds `high (1 + high_spread n)`, at least 0, and
    `low (1 + low_spread n)`, at most 0; its relative size of step `s = 1 + step_spread n`; its difference of directions
    `r = asymmetry_spread n`. The steps U up and D down are then `step |s + r + min(0, a)|` and
    `step |s − r − max(0, a)|`, with a the `asymmetry`.

    **Arguments:**

    - `step` (default 0.001): the mean step.
    - `high` (default 0.6), `low` (default −0.6): the mean bounds, which contain 0.
    - `step_spread` (default 0.3), `high_spread`, `low_spread` (default 0.3): from cell to cell, relative.
    - `lognormal` (default False): draws `s = exp(step_spread n)`.
    - `asymmetry` (default 0), `asymmetry_spread` (default 0.01): a and the standard deviation of r.
    - `noise` (default 0.3): standard deviation of a step, in units of the cell's own step; new for each pulse.
    - `write_noise` (default 0): standard deviation of the read weight about the weight that pulses move, in units of
      `step`; redrawn where a cell is touched, and never added up.
    - `stuck` (default 0): the part of the cells that pulses do not move; each stays at a draw between its bounds.
    - `lifetime` (mini-batches, default None), `lifetime_spread` (default 0): L. With each query of pulses the weight
      decays to its reset level by the factor `1 − 1/L`.
    - `reset` (default 0), `reset_spread` (default 0.01): that level, its mean and standard deviation.
    - `diffusion` (default 0), `diffusion_spread` (default 0): standard deviation of a random step with each query of
      pulses.

    **Raises** `ArgumentError` for values outside these ranges.
    """

    step: float = 0.001
    high: float = 0.6
    low: float = -0.6
    step_spread: float = 0.3
    high_spread: float = 0.3
    low_spread: float = 0.3
    lognormal: bool = False
    asymmetry: float = 0.0
    asymmetry_spread: float = 0.01
    noise: float = 0.3
    write_noise: float = 0.0
    stuck: float = 0.0
    lifetime: float | None = None
    lifetime_spread: float = 0.0
    reset: float = 0.0
    reset_spread: float = 0.01
    diffusion: float = 0.0
    diffusion_spread: float = 0.0

    def __post_init__(self) -> None:
        name = type(self).__name__
        if not 0 < self.step < math.inf:
            raise ArgumentError(f"`{name}(step=...)` must be positive and finite, got {self.step}")
        if not -math.inf < self.low <= 0 <= self.high < math.inf or self.low == self.high:
            raise ArgumentError(
                f"`{name}(low=..., high=...)`: the bounds of a cell must contain 0, where training starts, got "
                f"{self.low:g} to {self.high:g}; shift the weights, and subtract the shift by a reference"
            )
        for field in fields(self):
            value = getattr(self, field.name)
            least = field.name.endswith("spread") or field.name in {"noise", "write_noise", "stuck", "diffusion"}
            if isinstance(value, float) and (not math.isfinite(value) or (least and value < 0)):
                raise ArgumentError(f"`{name}({field.name}=...)` must be finite and not negative, got {value}")
        if not self.stuck <= 1:
            raise ArgumentError(f"`{name}(stuck=...)` is a part of the cells, from 0 to 1, got {self.stuck}")
        if self.lifetime is not None and not self.lifetime > 1:
            raise ArgumentError(
                f"`{name}(lifetime=...)` must be more than one mini-batch, or None, got {self.lifetime}"
            )

    @property
    def granularity(self) -> float:
        """The nominal step of a pulse near w = 0, g."""
        return self.step

    def draw(self, shape: tuple[int, ...], generator: torch.Generator) -> Population:
        """Draw an array of cells of this shape."""

        def normal() -> Tensor:
            return torch.randn(shape, generator=generator)

        high = (self.high * (1 + self.high_spread * normal())).clamp_min(0.0)
        low = (self.low * (1 + self.low_spread * normal())).clamp_max(0.0)
        size = (self.step_spread * normal()).exp() if self.lognormal else 1 + self.step_spread * normal()
        apart = self.asymmetry_spread * normal()
        up = self.step * (size + apart + min(0.0, self.asymmetry)).abs()
        down = self.step * (size - apart - max(0.0, self.asymmetry)).abs()
        cells = {"high": high, "low": low, "up": up, "down": down}
        cells |= self._shaped(cells, normal)
        if self.lifetime is not None:
            lifetime = self.lifetime * (1 + self.lifetime_spread * normal())
            cells["keep"] = 1 - 1 / lifetime.clamp_min(1.0)
        if self.lifetime is not None:
            cells["reset"] = self.reset + self.reset_spread * normal()
        if self.diffusion:
            cells["diffusion"] = (self.diffusion * (1 + self.diffusion_spread * normal())).abs()
        if self.stuck:
            stuck = torch.rand(shape, generator=generator) < self.stuck
            at = cells["low"] + (cells["high"] - cells["low"]) * torch.rand(shape, generator=generator)
            cells["high"], cells["low"] = (torch.where(stuck, at, cells[name]) for name in ("high", "low"))
        return cells

    def _shaped(self, cells: Population, normal: Normal) -> Population:
        """Return the further properties of this kind of cell, and those that it changes."""
        del cells, normal
        return {}

    @abc.abstractmethod
    def law(self, up: Tensor, cells: Population) -> Population:
        """Return the properties on which steps in the direction `up` of each cell depend, with `low` and `high`."""

    @abc.abstractmethod
    def mean_step(self, w: Tensor, law: Population) -> Tensor:
        """Return the mean size of a step at w in the direction of the law, at least 0."""

    def deviation(self, mean: Tensor, w: Tensor, law: Population) -> Tensor:
        """Return the standard deviation of a step of this mean size; by default `noise · mean`."""
        del w, law
        return self.noise * mean

    def moved(
        self, w: Tensor, x: Tensor, d: Tensor, cells: Population, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Return the weights after B trains, and which cells were touched.

        - `w` (rows, columns): the weights; the shape of each of `cells`, too.
        - `x` (B, S, columns), `d` (B, S, rows): −1, 0 or 1, the slots in which lines fire; each line has one sign.
        """
        touched = torch.zeros_like(w, dtype=torch.bool)
        for xs, ds in zip(x, d, strict=True):
            counts = ds.mT @ xs
            w = self.one_by_one(w, counts, cells, generator)
            touched |= counts != 0
        return w, touched

    def one_by_one(self, w: Tensor, counts: Tensor, cells: Population, generator: torch.Generator) -> Tensor:
        """Return the weights after the pulses of one train, each with its own noise, and cut off at the bounds.

        - `counts`, of the shape of w: the number of pulses, negative for those down.
        """
        n = counts.flatten()
        at = n.nonzero().squeeze(1)
        if not len(at):
            return w
        result, n = w.flatten().clone(), n.index_select(0, at)
        flat = {name: value.reshape(-1).index_select(0, at) for name, value in cells.items()}
        law, sign, here = self.law(n > 0, flat), n.sign(), result.index_select(0, at)
        left = n.abs()
        most = int(left.max())
        for k in range(1, most + 1):
            mean = self.mean_step(here, law)
            noise = torch.randn(mean.shape, generator=generator)
            step = torch.addcmul(mean, self.deviation(mean, here, law), noise)
            moved = torch.addcmul(here, sign, step).clamp_(law["low"], law["high"])
            here = moved if k == 1 else torch.where(left >= k, moved, here)
            if k == most or len(here) < SMALL:
                continue
            go_on = (left > k).nonzero().squeeze(1)
            if len(go_on) < THINNED * len(here):  # keep those that have further pulses
                result.index_copy_(0, at, here)
                at, left, sign, here = (value.index_select(0, go_on) for value in (at, left, sign, here))
                law = {name: value.index_select(0, go_on) for name, value in law.items()}
        result.index_copy_(0, at, here)
        return result.view(w.shape)

    def aged(self, w: Tensor, cells: Population, generator: torch.Generator, batches: int = 1) -> Tensor:
        """Return the weights after so many mini-batches of decay and diffusion; the bounds act at the end."""
        if not batches:
            return w
        keep = cells.get("keep")
        if keep is not None:
            w = cells["reset"] + (w - cells["reset"]) * keep**batches
        if "diffusion" in cells:
            steps = batches if keep is None or batches == 1 else (1 - keep ** (2 * batches)) / (1 - keep**2)
            w = w + cells["diffusion"] * steps**0.5 * torch.randn(w.shape, generator=generator)
        if "keep" in cells or "diffusion" in cells:
            w = torch.minimum(torch.maximum(w, cells["low"]), cells["high"])
        return w

    def symmetric_point(self, cells: Population) -> Tensor:
        """Return the weight at which steps up and down are equal, by bisection between the bounds; nan where there is
        no such weight.
        """
        low, high = cells["low"].clone(), cells["high"].clone()
        rising = torch.ones_like(low, dtype=torch.bool)
        laws = self.law(rising, cells), self.law(~rising, cells)

        def excess(w: Tensor) -> Tensor:
            return self.mean_step(w, laws[0]) - self.mean_step(w, laws[1])

        crosses = (excess(low) >= 0) & (excess(high) <= 0)
        for _ in range(40):
            middle = (low + high) / 2
            above = excess(middle) > 0
            low, high = torch.where(above, middle, low), torch.where(above, high, middle)
        return torch.where(crosses, (low + high) / 2, torch.nan)
