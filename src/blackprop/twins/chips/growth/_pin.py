"""Phases that no pair of modes shows, put where the outputs say that they belong."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from blackprop.devices.photonic.chips import Layout


def pinned(layout: Layout, offset: Tensor, outputs: Tensor) -> Tensor:
    """The offsets (P,) of a mesh of two-splitter blocks that turn each output by a phase (outputs,) rad besides,
    one that is not a number by any.

    A block takes a phase as a whole where both its inputs have it. Where one input comes from a shifter θ, that makes
    the two equal; where both do, their common phase is free, and the outputs fix it.
    """
    free = sum(1 for _ in _frees(layout))
    wires = torch.zeros(layout.modes, free + 1, dtype=torch.float64)  # the last entry is a constant
    pending: list[int | None] = [None] * layout.modes
    source: list[int | None] = [None] * layout.modes  # the block whose lower output a mode is
    change: dict[int, Tensor] = {}
    equal: list[Tensor] = []
    count = 0
    for pairs, blocks in zip(layout.columns, layout.members, strict=True):
        for (upper, lower), block in zip(pairs, blocks.tolist(), strict=True):
            first, second = pending[upper], pending[lower]
            common = wires[lower if first is not None else upper]
            if first is not None and second is not None:
                common = torch.zeros_like(wires[0])
                common[count] = 1
                count += 1
            elif first is None and second is None:
                equal.append(wires[upper] - wires[lower])
            if first is not None:
                change[first] = common - wires[upper]
            if second is not None:
                change[second] = common - wires[lower]
            wires[upper] = wires[lower] = common
            pending[upper], pending[lower] = 2 * block, None
            source[upper], source[lower] = None, block
    told = [(mode, phase) for mode, phase in enumerate(outputs) if not math.isnan(phase)]
    for mode, phase in told:
        number, wanted = pending[mode], torch.zeros_like(wires[0])
        wanted[-1] = phase
        if number is not None:
            change[number] = wanted - wires[mode]
        else:
            equal.append(wires[mode] - wanted)
    system = torch.stack(equal) if equal else wires[:0]
    chosen = torch.cat((torch.linalg.pinv(system[:, :-1]) @ -system[:, -1], torch.ones(1, dtype=torch.float64)))
    found = offset.clone()
    for number, expression in change.items():
        found[number] += expression @ chosen
    for mode, phase in told:
        block = source[mode]
        if block is not None and math.cos(float(phase - wires[mode] @ chosen)) < 0:
            found[[2 * block, 2 * block + 1]] += math.pi
    return found


def _frees(layout: Layout) -> Iterator[int]:
    turned: set[int] = set()
    for pairs in layout.columns:
        for upper, lower in pairs:
            if upper in turned and lower in turned:
                yield upper
            turned.discard(lower)
            turned.add(upper)
