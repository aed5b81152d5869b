"""A model of a chip, grown layer by layer from the inputs to the outputs."""

from __future__ import annotations

import abc
import cmath
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from blackprop.twins.chips.growth._layers import Shifters
from blackprop.twins.chips.growth._programme import EARLY, Setpoint, Walk
from blackprop.twins.chips.growth._step import LayerStep

WORSE = 1.2  # times the residual of the layer before: a layer's unknowns are not right
GRID, LATER = 12, 2  # points of the search for an offset that dead shifters left open, and the layers that are asked
JUMP, POOR, NEAR = 3.0, 0.03, 2  # times the residuals before; a residual; layers on both sides that are suspected
BACK = 4  # layers that are fitted jointly, where real light shows too little of one


class Stage(NamedTuple):
    """The programmings that turn some shifters of a layer."""

    which: Tensor  # (settings,), of all programmings
    members: Tensor  # shifters
    turn: float  # rad


class Growth(abc.ABC):
    """The unknowns of a chip, found one layer after the other.

    Everything in front of a layer is known. The base setting of that layer and of all later ones makes each output a
    functional of the field there, the same in all readings of this and of the earlier layers. A turn of the layer's
    shifters changes the readings by their generators (`LayerStep`), for which the readings are linear.

    **Arguments:** `base` (P,), the base setting, rad; `rows` (rows, inputs); `measured`, the programmings with their
    readings (rows, outputs).

    **Attributes:** `offset` (P,), rad; `errors` (blocks, splitters), rad; `left`, the relative residual of each layer's
    readings; `dead`, the numbers in θ of the shifters that do not answer to their setting. Their offset is their phase.
    """

    def __init__(self, walk: Walk, base: Tensor, rows: Tensor, measured: list[tuple[Setpoint, Tensor]]) -> None:
        self.walk, self.base, self.modes = walk, base, walk.layout.modes
        programmings = [each for each, _ in measured]
        self.drives = torch.stack([each.drive for each in programmings])
        self.readings = torch.stack([y for _, y in measured])
        self.layer = torch.tensor([each.layer for each in programmings])
        self.colour = torch.tensor([-1 if each.colour is None else each.colour for each in programmings])
        self.turns = torch.tensor([each.turn for each in programmings], dtype=torch.float64)
        self.offset = torch.zeros(len(base), dtype=torch.float64)
        self.errors = torch.zeros(walk.layout.blocks, 2 if walk.two else 3, dtype=torch.float64)
        self.left: list[float] = []
        self.dead: list[int] = []
        self._unseen: dict[int, int] = {}  # of an offset that dead shifters alone would have shown: its layer
        entering = pad(rows, (0, self.modes - rows.shape[1])).mT.to(torch.complex128)
        self.field = entering.expand(len(measured), -1, -1)  # in front of the present layer
        self.fields: dict[int, Tensor] = {}  # in front of the last few layers
        self._source: dict[int, int] = {}  # of a mode: the block whose lower output it is
        self._open: dict[int, int] = {}  # of an outer phase that is not known yet: its mode

    def run(self, dead: Sequence[int] = ()) -> None:
        """Find all of them, the shifters of some numbers in θ being known as dead."""
        for number in range(self.first):
            self._still(number, dead)
        self.begin()
        for number in range(self.first, len(self.walk.steps)):
            self._still(number, dead)
            self.solve(number, self.walk.steps[number])
        self.end()

    def _still(self, number: int, dead: Sequence[int]) -> None:
        step = self.walk.steps[number]
        here = [each for each in step.shifters.number.tolist() if each in dead]
        if here:
            self.silence(number, step, here)

    first = 0  # the layer that it begins with

    def suspects(self) -> Tensor:
        """The numbers in θ of the shifters around the first layer that leaves far more than those before it, of the
        last layers where there is none; and of the first ones where these leave much.
        """
        skipped, last = len(self.walk.steps) - len(self.left), len(self.walk.steps) - 1
        jumps = [skipped + i for i in range(1, len(self.left)) if self.left[i] > JUMP * max(self.left[:i])]
        centres = [jumps[0] if jumps else last] + ([skipped] if self.left[0] > POOR else [])
        near = {k for each in centres for k in range(max(0, each - NEAR), min(last + 1, each + NEAR))}
        return torch.cat([self.walk.steps[k].shifters.number for k in sorted(near)])

    @abc.abstractmethod
    def begin(self) -> None:
        """Find the functionals in front of the first layer."""

    @abc.abstractmethod
    def solve(self, number: int, step: LayerStep) -> None:
        """Find the unknowns of a step, everything in front of it being known."""

    @abc.abstractmethod
    def end(self) -> None:
        """Find the unknowns behind the last layer."""

    def pool(self, number: int) -> Tensor:
        """The programmings (settings,) that leave a layer and all later ones at the base setting."""
        return (self.layer < number) | ((self.layer == number) & (self.colour < 0))

    def stages(self, number: int, step: LayerStep) -> list[Stage]:
        found = []
        silent = torch.tensor([number in self.dead for number in step.shifters.number.tolist()])
        for colour, every in enumerate(step.colours):
            here, members = (self.layer == number) & (self.colour == colour), every[~silent[every]]
            found += [Stage(here & (self.turns == turn), members, float(turn)) for turn in self.turns[here].unique()]
        return found

    def light(self, which: Tensor) -> tuple[Tensor, Tensor]:
        """The fields (m, modes) in front of the layer and the readings (m, outputs) of some programmings."""
        return self.field[which].mT.flatten(0, 1), self.readings[which].flatten(0, 1)

    def corrected(self, step: LayerStep, coefficients: Tensor) -> Tensor | None:
        """Signs (modes,) that the generators demand of the field, None where they are all positive.

        A push-pull phase is known up to half a turn, which changes the sign of both outputs of its block. Two modes
        that meet without a phase shifter in between show that.
        """
        if not self.walk.two:
            return None
        links, signs = step.links(coefficients).real, torch.ones(self.modes, dtype=torch.float64)
        for each in step.splitters:
            for pair in zip(each.upper.tolist(), each.lower.tolist(), strict=True):
                mode = next((m for m in reversed(pair) if m in self._source), None)
                if mode is None or step.consumed.keys() & set(pair) or links[pair] >= 0:
                    continue
                block = self._source[mode]
                signs[mode] = -1
                self.offset[2 * block + 1] += math.pi
                if 2 * block in self._open:
                    signs[self._open[2 * block]] *= -1
                else:
                    self.offset[2 * block] += math.pi
        return signs if bool((signs < 0).any()) else None

    def settle(self, number: int, step: LayerStep, unknowns: Tensor) -> None:
        """Take the unknowns of a step, and pass its layer."""
        step.scatter(unknowns, self.offset, self.errors)
        self.fields[number] = self.field
        self.fields.pop(number - BACK, None)
        self.field = step.shifters.through(step.through(self.field, unknowns), self.drives)
        for each in step.numbers:
            self._open.pop(each, None)
        if not step.shifters.push:
            for upper, lower, each in zip(*(t.tolist() for t in step.shifters.members), strict=True):
                self._source[lower], self._open[each] = each // 2, upper
                self._source.pop(upper, None)

    def silence(self, number: int, step: LayerStep, dead: list[int]) -> None:
        """Take shifters of a layer, by their numbers in θ, for dead: the offsets in front that only they would have
        shown are left to the layers behind.
        """
        self.dead += dead
        self.drives[:, dead] = 0.0
        self.base[dead] = 0.0
        live = torch.tensor([each not in self.dead for each in step.shifters.number.tolist()])
        shown = {m for group in step.groups for m in group.support[live[group.which]].flatten().tolist()}
        self._unseen |= {each: number for mode, (each, _) in step.consumed.items() if mode not in shown}

    def search(self, number: int, loss: Callable[[], float]) -> None:
        """Take for each offset that dead shifters left open the one of a grid that leaves the least loss."""
        self._unseen = {each: layer for each, layer in self._unseen.items() if layer >= number - LATER}
        before = [each for each, layer in self._unseen.items() if layer < number]
        for each in before * (2 if len(before) > 1 else 1):
            found = []
            for _ in range(GRID):
                self._moved(each, number, 2 * math.pi / GRID)
                found.append(loss())
            self._moved(each, number, 2 * math.pi / GRID * (found.index(min(found)) + 1))

    def _moved(self, each: int, number: int, turn: float) -> None:
        first = self._unseen[each]
        self.offset[each] += turn
        steps = self.walk.steps[first:number]
        self.rewound(first, steps, torch.cat([step.gathered(self.offset, self.errors) for step in steps]))

    def doubtful(self, number: int) -> bool:
        """Whether the last layers want to be fitted jointly: real light shows too little of one, or a layer leaves more
        of the readings than those before it, or dead shifters left some open.
        """
        worse = (len(self.left) > 1 and self.left[-1] > WORSE * self.left[-2]) or bool(self._unseen)
        return number < EARLY or worse or any(self.walk.blind[max(0, number - BACK + 1) : number + 1])

    def rewound(self, first: int, steps: list[LayerStep], unknowns: Tensor) -> None:
        """Take other unknowns of the last layers, from the layer `first` on."""
        self.field = self.fields[first]
        for k, (step, some) in enumerate(zip(steps, unknowns.split([each.count for each in steps]), strict=True)):
            self.fields[first + k] = self.field
            step.scatter(some, self.offset, self.errors)
            self.field = step.shifters.through(step.through(self.field, some), self.drives)


def changes(shifters: Shifters, turn: float) -> tuple[complex, complex]:
    """κ₀ and κ₁: a turn of shifters b acts as `1 + Σ_b (κ₀ 1_b + κ₁ G_b)`, 1_b being 1 on the modes that b sees."""
    if shifters.push:
        return math.cos(turn) - 1, 1j * math.sin(turn)
    return 0.0, cmath.exp(1j * turn) - 1


def turned(step: LayerStep, unknowns: Tensor, field: Tensor, stage: Stage) -> Tensor:
    """The fields (m, modes) that would have the effect of those of a stage, with its shifters not turned."""
    zero, one = changes(step.shifters, stage.turn)
    field = field.clone()
    for group, generators in zip(step.groups, step.generators(unknowns), strict=True):
        chosen = torch.isin(group.which, stage.members)
        here = field[:, group.support[chosen]]  # (m, b, n)
        field[:, group.support[chosen].flatten()] += (
            zero * here + one * torch.einsum("bij,mbj->mbi", generators[chosen], here)
        ).flatten(1)
    return field
