"""Whether a parameter moves its declared cells, and those alone."""

from __future__ import annotations

import torch
from torch import Tensor

from blackprop.core._declaration import Coupling
from blackprop.core._probes import Probes, signed
from blackprop.errors import ContractError
from blackprop.testing._probe import Probe


def check_coupling(probe: Probe, parameters: int, subsets: int) -> None:
    """Move single parameters and random halves of them; cells without a moved parameter of their own must stay.

    A cell is an element of the matrix for ELEMENT, an output for ROW. In one random half, a parameter that moves a
    foreign cell is detected with probability 1/4, so that 8 halves detect a single one in 9 cases of 10.
    """
    coupling, spec = probe.spec.coupling, probe.spec
    if coupling is Coupling.NONE:
        return
    claim = f"coupling {coupling.name}"
    size, element = spec.theta.size, coupling is Coupling.ELEMENT
    cells = spec.d_out * spec.d_in if element else spec.d_out
    fits = (spec.linear and size == cells) if element else size % cells == 0
    needs = f"a linear device with P = d_out·d_in = {cells}" if element else f"P a multiple of d_out = {cells}"
    probe.bench.require(fits, claim, f"linear={spec.linear}, P = {size}", needs)
    owner = torch.arange(size, device=probe.theta.device) // (size // cells)
    halves = torch.rand(subsets, cells, generator=probe.generator, device=probe.theta.device) < 0.5
    worst = 0.0
    for which in [*(only for _, only in probe.singles(parameters)), *(half[owner] for half in halves)]:
        moves, bound = _stray(probe, which, owner, cells)
        if float(moves.max()) > bound:
            raise ContractError(_blame(probe, claim, which, owner, cells))
        worst = max(worst, float(moves.max()))
    probe.bench.note(
        claim, f"{parameters} parameters and {subsets} random halves: other cells stay (within {worst:.2g})"
    )


def _stray(probe: Probe, which: Tensor, owner: Tensor, cells: int) -> tuple[Tensor, float]:
    """Return how far cells without parameters in `which` (P,) move, (cells,), and their bound."""
    setting, element = probe.moved(which), probe.spec.coupling is Coupling.ELEMENT
    x = probe.x
    unit: Probes | None = None
    if element:  # unit rows give the matrix
        unit = signed(probe.spec, torch.eye(probe.spec.d_in, device=x.device).to(x) * float(x.abs().max()))
        x = unit.rows.unflatten(1, probe.spec.in_shape)

    def answers(theta: Tensor) -> Tensor:
        y = probe.read(x, theta, "coupling").flatten(1)
        return y if unit is None else unit.products(y)

    change, bound = probe.difference(lambda: answers(setting), lambda: answers(probe.theta))
    moves = change.mT.abs()  # (d_out, rows)
    moves = moves.flatten() if element else moves.amax(1)
    owned = torch.zeros(cells, dtype=torch.bool, device=owner.device)
    owned[owner[which]] = True
    return moves.masked_fill(owned, 0.0), bound


def _blame(probe: Probe, claim: str, which: Tensor, owner: Tensor, cells: int) -> str:
    """Halve the set while one half still moves foreign cells, and describe the rest."""
    moves, bound = _stray(probe, which, owner, cells)
    while int(which.sum()) > 1:
        for part in which.nonzero().flatten().tensor_split(2):
            half = torch.zeros_like(which)
            half[part] = True
            found, bound = _stray(probe, half, owner, cells)
            if float(found.max()) > bound:
                which, moves = half, found
                break
        else:
            break  # neither half does it alone
    culprits = which.nonzero().flatten().tolist()
    who = f"parameter {culprits[0]}"
    own = _cell(probe, int(owner[culprits[0]]))
    if len(culprits) > 1:
        who, own = f"a change of {len(culprits)} parameters, {culprits[0]} among them,", "the outputs they own"
    hit = _cell(probe, int(moves.argmax()))
    size = float(moves.max())
    measured = f"that {who} moves {hit} by {size:.3g} (allowed {bound:.2g})"
    return f"{probe.spec.name}: {claim}: measured {measured}, declared {own} alone"


def _cell(probe: Probe, index: int) -> str:
    if probe.spec.coupling is Coupling.ROW:
        return f"output {index}"
    row, column = divmod(index, probe.spec.d_in)
    return f"A[{row}, {column}] (output {row})"
