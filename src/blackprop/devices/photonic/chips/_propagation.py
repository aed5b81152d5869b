"""Light through a mesh, column by column."""

from __future__ import annotations

import torch
from torch import Tensor

from blackprop.devices.photonic._blocks import Blocks
from blackprop.devices.photonic.chips._design import Layout


def factors(layout: Layout, blocks: Blocks) -> tuple[Tensor, Tensor]:
    """Of each mode in each column, its own factor and that of its partner's amplitude, (..., columns, modes), from the
    elements of all blocks (..., blocks) in the order of θ.
    """
    dark = torch.zeros_like(blocks[0][..., :1])
    stacked = torch.cat((*blocks, dark, dark + 1), -1)
    own, other = (index.to(stacked.device) for index in layout.elements)
    return stacked[..., own], stacked[..., other]


def propagated(layout: Layout, blocks: Blocks, field: Tensor) -> Tensor:
    """The complex field (..., modes, rows) behind the mesh of that before it; the modes come first, so that a column is
    two products of whole rows.
    """
    own, other = (each.unsqueeze(-1) for each in factors(layout, blocks))
    partners = layout.partners.to(field.device)
    for column, partner in enumerate(partners):
        field = own[..., column, :, :] * field + other[..., column, :, :] * field.index_select(-2, partner)
    return field
