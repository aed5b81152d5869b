"""Cells whose step is interpolated between nodes of its range."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from blackprop.devices.electronic.cells._cell import Cell, Population
from blackprop.errors import ArgumentError


@dataclass(frozen=True, kw_only=True)
class PiecewiseStep(Cell):
    """`Δ₊ = U p₊(t)`, `Δ₋ = D p₋(t)`, with `t = (w − b₋)/(b₊ − b₋)` and p linear between nodes equally far apart.

    - `nodes_up`, `nodes_down` (default (1, 1)): the values of p₊ and p₋ from the lower bound to the upper, at least two
      each, at least 0.

    **Raises** `ArgumentError` for fewer nodes, and for negative ones.
    """

    nodes_up: tuple[float, ...] = (1.0, 1.0)
    nodes_down: tuple[float, ...] = (1.0, 1.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("nodes_up", "nodes_down"):
            nodes = tuple(getattr(self, name))
            object.__setattr__(self, name, nodes)
            if len(nodes) < 2 or not all(0 <= node < float("inf") for node in nodes):
                raise ArgumentError(f"`PiecewiseStep({name}=...)` has at least two nodes of at least 0, got {nodes}")

    @property
    def granularity(self) -> float:
        middle = torch.tensor(-self.low / (self.high - self.low))
        at = [float(_interpolated(torch.tensor(nodes), middle)) for nodes in (self.nodes_up, self.nodes_down)]
        return self.step * sum(at) / 2 or self.step

    def law(self, up: Tensor, cells: Population) -> Population:
        size = torch.where(up, cells["up"], cells["down"])
        return {"low": cells["low"], "high": cells["high"], "size": size, "up": up.to(size)}

    def mean_step(self, w: Tensor, law: Population) -> Tensor:
        place = (w - law["low"]) / (law["high"] - law["low"]).clamp_min(1e-12)
        rise, fall = (_interpolated(w.new_tensor(nodes), place) for nodes in (self.nodes_up, self.nodes_down))
        return law["size"] * torch.lerp(fall, rise, law["up"])


def _interpolated(nodes: Tensor, place: Tensor) -> Tensor:
    """The values of the nodes at places from 0 to 1."""
    along = place.clamp(0, 1) * (len(nodes) - 1)
    left = along.floor().clamp(max=len(nodes) - 2).long()
    return torch.lerp(nodes[left], nodes[left + 1], along - left)
