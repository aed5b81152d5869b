"""Power taps at the phase shifters of a chip, and the light inside it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from blackprop.core.capabilities._taps import Taps
from blackprop.devices.photonic._light import Factors, powers
from blackprop.devices.photonic._mzi import (
    PUSH_PULL,
    SEPARATE,
    Place,
    mzi_factors,
    three_splitter_factors,
)
from blackprop.devices.photonic.chips._design import Layout
from blackprop.devices.photonic.chips._losses import Losses, amplitudes
from blackprop.errors import ArgumentError

# Of a block of two or three splitters: the factor and the arm of each tap, and the weights of its two parameters.
TAPPED: dict[int, tuple[Place, ...]] = {2: ((0, 0), (0, 1), (1, 0)), 3: ((0, 0), (1, 0))}
WEIGHTS = {2: PUSH_PULL, 3: SEPARATE}
STEP, RUNS = 0.05, 2000  # relative rounding of a nominal share, and the most runs of equal ones


@dataclass(frozen=True)
class PowerTaps:
    """A power tap behind each phase shifter, and fields of any phase that are sent and read at all N inputs.

    A tap reads `P (1 + gain · n) (1 + noise · n′)`, with n drawn once for each tap and n′ at every reading.

    **Arguments:** `noise`, relative; `gain`, the relative standard deviation of the gains.
    """

    noise: float = 0.0
    gain: float = 0.0

    def __post_init__(self) -> None:
        for name in ("noise", "gain"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ArgumentError(
                    f"`PowerTaps({name}=...)` must be finite and not negative, got {getattr(self, name)}"
                )

    def declared(self, layout: Layout, splitters: int, losses: Losses, law: tuple[float, ...]) -> Taps:
        """The capability of a chip with these taps, nominal losses and law of its heaters."""
        return Taps(
            layout.modes,
            layout.blocks,
            WEIGHTS[splitters],
            _transmission(layout, splitters, losses) if losses.interferometer or losses.port else (),
            self.noise,
            law,
        )

    def drawn(self, layout: Layout, splitters: int, generator: torch.Generator) -> Tensor:
        """The gains (K,) of the taps of a chip."""
        return 1 + self.gain * torch.randn(layout.blocks * len(TAPPED[splitters]), generator=generator)

    def read(self, fields: list[Tensor], splitters: int, gains: Tensor, generator: torch.Generator) -> Tensor:
        """The readings (rows, K) of the fields (rows, blocks, 2) behind each factor of the blocks."""
        taps = torch.stack([fields[factor][..., arm] for factor, arm in TAPPED[splitters]], -1)
        read = powers(taps).flatten(1) * gains
        if self.noise:
            drawn = torch.randn(read.shape, generator=generator, dtype=read.dtype)
            read = read * (1 + self.noise * drawn.to(read.device))
        return read


def block_factors(phases: Tensor, splitters: Tensor, loss: Tensor) -> Factors:
    """The blocks as factors (blocks, 2, 2) in the order in which light meets them, of phases (P,), splitter errors
    (blocks, splitters) and losses in nepers (blocks,), half of each behind either phase shifter.
    """
    parts = mzi_factors if splitters.shape[1] == 2 else three_splitter_factors
    first, second, *rest = parts(phases, splitters)
    half = amplitudes(loss / 2)[:, None, None]
    return [half * first, half * second, *rest]


def through(layout: Layout, factors: Factors, field: Tensor) -> list[Tensor]:
    """The fields (rows, blocks, 2) behind each factor of the blocks, in the order of θ, of fields (rows, N) that enter
    the mesh.
    """
    seen = [field.new_zeros(len(field), layout.blocks, 2) for _ in factors]
    for pairs, members in zip(layout.columns, layout.members, strict=True):
        places = torch.tensor(pairs, device=field.device)
        inside = field[:, places]
        for kept, factor in zip(seen, factors, strict=True):
            inside = (factor[members] @ inside.unsqueeze(-1)).squeeze(-1)
            kept[:, members] = inside
        field = field.index_copy(1, places.flatten(), inside.flatten(1))
    return seen


def _transmission(layout: Layout, splitters: int, losses: Losses) -> tuple[tuple[float, ...], ...]:
    """The nominal share of the power at each tap, in runs of equal blocks.

    With equal power at all inputs, and blocks that divide it equally on the mean, that is the power at the tap. Shares
    are rounded, so that many blocks are alike and the description fits into the header of a message.
    """
    block = 10 ** (-losses.interferometer / 10)
    power = torch.full((layout.modes,), 10 ** (-losses.port / 10), dtype=torch.float64)
    share = torch.zeros(layout.blocks, dtype=torch.float64)  # of a block's power in front of it
    for pairs, members in zip(layout.columns, layout.members, strict=True):
        places = torch.tensor(pairs)
        mean = power[places].mean(1)
        share[members] = mean
        power[places] = block * mean[:, None].expand(-1, 2)
    passed = [block ** ((factor + 1) / 2) for factor, _ in TAPPED[splitters]]
    step = STEP
    while True:
        values, counts = torch.unique_consecutive((share.log() / step).round(), return_counts=True)
        if len(values) <= RUNS:
            break
        step *= 2
    values = (step * values).exp().clamp_max(1.0)
    return tuple(
        (count, *(value * part for part in passed))
        for value, count in zip(values.tolist(), counts.tolist(), strict=True)
    )
