"""A chip as an alternation of splitters and phase shifters, in the order in which light meets them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from blackprop.devices.photonic.chips import Chip

BALANCED = math.pi / 4  # rad, the angle of a splitter without error


@dataclass(frozen=True, eq=False)
class Splitters:
    """Splitters side by side, `[[cos η, i sin η], [i sin η, cos η]]`, `η = π/4 + ε`, all ε `errors[block, which]`."""

    upper: Tensor  # (n,), modes
    lower: Tensor
    block: Tensor  # (n,), numbers in the order of θ
    which: int

    def through(self, field: Tensor, errors: Tensor) -> Tensor:
        """The field (..., modes, rows) behind them, for the errors ε (n,)."""
        upper, lower = self._outputs(field, BALANCED + errors)
        return field.index_copy(-2, torch.cat((self.upper, self.lower)), torch.cat((upper, lower), -2))

    def tangents(self, field: Tensor, errors: Tensor) -> Tensor:
        """Its derivatives (n, ..., modes, rows) for each error."""
        upper, lower = self._outputs(field, BALANCED + errors + math.pi / 2)  # a quarter turn of η is the derivative
        found = torch.zeros(len(errors), *field.shape, dtype=field.dtype)
        for each in range(len(errors)):
            found[each, ..., self.upper[each], :] = upper[..., each, :]
            found[each, ..., self.lower[each], :] = lower[..., each, :]
        return found

    def _outputs(self, field: Tensor, angles: Tensor) -> tuple[Tensor, Tensor]:
        cos, sin = angles.cos()[:, None], 1j * angles.sin()[:, None]
        upper, lower = field[..., self.upper, :], field[..., self.lower, :]
        return cos * upper + sin * lower, sin * upper + cos * lower


@dataclass(frozen=True, eq=False)
class Shifters:
    """Phase shifters side by side: `e^{i(phase + constant)}` on the upper modes, and its conjugate on the lower ones
    where they `push` and pull. Where they do not, both modes are multiplied by `factor` besides.
    """

    upper: Tensor  # (n,), modes
    lower: Tensor
    number: Tensor  # (n,), in θ
    push: bool
    constant: float
    factor: complex

    @property
    def members(self) -> tuple[Tensor, Tensor, Tensor]:
        """Upper modes, lower modes, numbers in θ."""
        return self.upper, self.lower, self.number

    def through(self, field: Tensor, phases: Tensor) -> Tensor:
        """The field (..., settings, modes, rows) behind them, for phases (settings, P)."""
        turn = phases[:, self.number] + self.constant
        wave = self.factor * torch.polar(torch.ones_like(turn), turn)
        every = torch.ones(len(phases), field.shape[-2], dtype=wave.dtype)
        every[:, self.upper] = wave
        every[:, self.lower] = wave.conj() if self.push else torch.full_like(wave, self.factor)
        return field * every[..., None]


@dataclass(frozen=True, eq=False)
class ChipLayer:
    """Splitters, and the phase shifters behind them."""

    splitters: tuple[Splitters, ...]
    shifters: Shifters


def layers(chip: Chip) -> tuple[list[ChipLayer], tuple[Splitters, ...]]:
    """All layers of a chip, with its nominal losses, and the splitters behind the last one."""
    left = math.exp(-float(chip.build.loss.mean()))
    found: list[ChipLayer] = []
    before: tuple[Splitters, ...] = ()
    for pairs, blocks in zip(chip.layout.columns, chip.layout.members, strict=True):
        upper, lower = torch.tensor(pairs).unbind(1)

        def splitters(which: int, upper: Tensor = upper, lower: Tensor = lower, block: Tensor = blocks) -> Splitters:
            return Splitters(upper, lower, block, which)

        three = chip.design.splitters == 3
        inner = Shifters(upper, lower, 2 * blocks + 1, not three, -math.pi / 2 if three else 0.0, 1.0)
        outer = Shifters(upper, lower, 2 * blocks, False, math.pi / 2 if three else 0.0, left * (1 if three else -1j))
        found += [ChipLayer((*before, splitters(0)), inner), ChipLayer((splitters(1),), outer)]
        before = (splitters(2),) if three else ()
    return found, before


def modes_of(splitters: Sequence[Splitters]) -> list[int]:
    """The modes that they stand on."""
    return sorted({mode for each in splitters for mode in (*each.upper.tolist(), *each.lower.tolist())})
