"""Which settings a growth reads, layer by layer, from the inputs to the outputs."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from blackprop.devices.photonic.chips import Chip
from blackprop.twins.chips.growth._layers import layers
from blackprop.twins.chips.growth._step import LayerStep, Pending

#: Parts of the reach of heaters between which a growth drives them, with room for its turns.
FIELDS, POWERS = (0.075, 0.475), (0.275, 0.675)
EARLY, SEVERAL = 4, 4  # layers whose fields real rows show in part, and settings that each of them takes besides


@dataclass(frozen=True, eq=False)
class Setpoint:
    """One programming: all layers before `layer` drawn anew, that layer and all later ones at the base setting.

    **Attributes:** `drive` (P,), rad; `colour`, of the shifters of the layer that are turned by `turn` rad more, None
    for none of them.
    """

    layer: int
    colour: int | None
    turn: float
    drive: Tensor


class Walk:
    """The steps of a chip in the order of light, for offsets that are all unknown."""

    def __init__(self, chip: Chip) -> None:
        self.layers, self.last = layers(chip)
        self.steps: list[LayerStep] = []
        self.layout = chip.layout
        self.two = chip.design.splitters == 2
        self.front = 2 if self.two else 1  # the first layer whose fields real rows show in power
        pending: Pending = {}
        self.blind: list[bool] = []
        turned: set[int] = set()  # modes whose light is not real
        for layer in self.layers:
            self.blind.append(False)
            for each in layer.splitters:
                for pair in zip(each.upper.tolist(), each.lower.tolist(), strict=True):
                    if turned & set(pair):
                        turned |= set(pair)
                    elif self.two:
                        self.blind[-1] = True
            if not layer.shifters.push:
                turned |= set(layer.shifters.upper.tolist())
            step = LayerStep(layer.splitters, layer.shifters, chip.modes, pending)
            self.steps.append(step)
            pending = {mode: value for mode, value in pending.items() if mode not in step.consumed}
            each = layer.shifters
            for upper, lower, number in zip(
                each.upper.tolist(), each.lower.tolist(), each.number.tolist(), strict=True
            ):
                pending[upper] = (number, 1)
                if each.push:
                    pending[lower] = (number, -1)
        self.pending = pending  # behind the last layer

    def mixed_behind(self, number: int) -> set[int]:
        """The modes that splitters behind a layer mix."""
        behind = [*[each for layer in self.layers[number + 1 :] for each in layer.splitters], *self.last]
        return {mode for each in behind for modes in (each.upper, each.lower) for mode in modes.tolist()}


@dataclass(frozen=True)
class Reach:
    """The range of phases, rad, of the settings of a growth, up to `top`: drawn between `low` and `high`, with room for
    turns by `turn`, back and on for powers; half of that where shifters push and pull.
    """

    low: float
    high: float
    turn: float
    top: float

    @classmethod
    def of(cls, heated: float | None, linear: bool) -> Reach:
        """For heaters up to a phase `heated`, rad, and for plain phases where that is None."""
        turn = math.pi if linear else math.pi / 2
        if heated is None:
            return cls(0.0, 2 * math.pi, turn, 2 * math.pi)
        low, high = FIELDS if linear else POWERS
        top = min(heated, 2 * math.pi)
        return cls(low * top, high * top, turn * top / (2 * math.pi), top)

    def of_layer(self, step: LayerStep) -> float:
        """By how much, rad, the shifters of a layer turn."""
        return self.turn / (2 if step.shifters.push else 1)


def programme(
    walk: Walk,
    size: int,
    *,
    linear: bool,
    repeats: int,
    first: int = 0,
    reach: Reach,
    generator: torch.Generator,
) -> tuple[Tensor, list[Setpoint]]:
    """The base setting (P,), and all programmings. None depends on a reading."""

    def drawn() -> Tensor:
        return reach.low + (reach.high - reach.low) * torch.rand(size, generator=generator, dtype=torch.float64)

    base, found = drawn(), []
    known = torch.zeros(size, dtype=torch.bool)
    for number, step in enumerate(walk.steps):
        if not linear and number == walk.front:
            found += [Setpoint(number, None, 0.0, torch.where(known, drawn(), base)) for _ in range(first)]
        if not linear and number < walk.front:
            known[step.shifters.number] = True
            continue
        if linear and number < EARLY:
            for _ in range(SEVERAL if number else 1):
                found.append(Setpoint(number, None, 0.0, torch.where(known, drawn(), base)))
        for _ in range(repeats):
            for colour, members in enumerate(step.colours):
                anew, turn = torch.where(known, drawn(), base), reach.of_layer(step)
                several = (turn, turn / 2) if linear and number < EARLY else (turn,)
                for each in several if linear else (turn, -turn):
                    drive = anew.clone()
                    drive[step.shifters.number[members]] += each
                    found.append(Setpoint(number, colour, each, drive))
        known[step.shifters.number] = True
    return base, found
