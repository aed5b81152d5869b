"""The two ways to a first build of a chip: which settings each of them reads, and the build that it makes of them."""

from __future__ import annotations

import abc
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import final

import torch
from torch import Tensor
from torch.nn.functional import pad

from blackprop.core._declaration import Declaration
from blackprop.devices.photonic.chips import Build, Chip, Field, Rectangular
from blackprop.twins.chips._columns import HEATED, Columns
from blackprop.twins.chips._field import LOST, grown
from blackprop.twins.chips._polish import DEAD, ChipReadings
from blackprop.twins.chips._precision import Precision
from blackprop.twins.chips._programme import count, programme
from blackprop.twins.chips.growth._linear import LinearGrowth
from blackprop.twins.chips.growth._power import PowerGrowth
from blackprop.twins.chips.growth._programme import Reach, Walk
from blackprop.twins.chips.growth._programme import programme as walked

SMALL = 12  # modes, up to which the closed form serves also where less than half of the outputs are read
FORMS, FLIPS = 1.3, 1.15  # readings for each unknown of a quadratic form, of complex and of real light


class Way(abc.ABC):
    """A programme of readings, and a build of the chip from them.

    **Attributes:** `drives` (settings, P), rad, at which `precision.rows` rows are sent; `more` (settings, P), at which
    `more_rows` others are; `doubted`, whether the readings showed a shifter that seems dead, and the way knows none;
    `dead`, the numbers in θ of those that are known as dead; `suspects`, those among which dead ones may be.
    """

    drives: Tensor
    more: Tensor
    more_rows: int = 0
    doubted: bool = False
    dead: Sequence[int] = ()
    suspects: Tensor = torch.zeros(0, dtype=torch.int64)

    @abc.abstractmethod
    def build(self, fitted: ChipReadings, others: ChipReadings) -> tuple[Build, bool]:
        """The build that the readings show, and whether it is good enough for a joint fit to begin with."""


@final
class ClosedForm(Way):
    """From the outputs to the inputs, for rectangular meshes of two-splitter blocks whose fields are read."""

    def __init__(self, chip: Chip, spec: Declaration, precision: Precision, generator: torch.Generator) -> None:
        drives = HEATED if chip.heaters is not None else None
        self._chip = chip
        self._columns = Columns(chip.layout, spec.d_out, loss=float(chip.build.loss.mean()), drives=drives)
        self._base, self._programmings = programme(self._columns, precision.repeats, generator)
        self.drives = self._columns.flat(torch.stack([each.drive for each in self._programmings]))
        self.more = self.drives[:0]

    def build(self, fitted: ChipReadings, others: ChipReadings) -> tuple[Build, bool]:
        del others
        rows = pad(fitted.x, (0, self._chip.modes - fitted.x.shape[-1]))
        measured = list(zip(self._programmings, fitted.readings, strict=True))
        columns, left = grown(self._columns, self._base, rows, measured)
        self.doubted = columns.doubted
        return scaled(self._chip, columns.build(self._chip.build), fitted), max(left) <= LOST


@final
class Grown(Way):
    """From the inputs to the outputs, for all designs and readouts, and for few outputs."""

    def __init__(self, chip: Chip, spec: Declaration, precision: Precision, generator: torch.Generator) -> None:
        self._chip, self._walk, self._signs = chip, Walk(chip), _signs(chip)
        reach = Reach.of(None if chip.heaters is None else chip.heaters.top, self._signs is None)
        first = 0 if self._signs is None else math.ceil(FORMS * chip.modes**2 / precision.rows)
        self._base, self._programmings = walked(
            self._walk,
            chip.theta.size,
            linear=self._signs is None,
            repeats=precision.repeats,
            first=first,
            reach=reach,
            generator=generator,
        )
        self.drives = torch.stack([each.drive for each in self._programmings])
        self.more = self.drives[:0]
        if self._signs is not None and self._walk.two:
            outer = self._walk.steps[1].shifters.number
            self.more = self._base.repeat(2, 1)
            self.more[:, outer] = reach.top / 2 + torch.tensor([[-math.pi / 2], [math.pi / 2]], dtype=self.more.dtype)
            self.more_rows = 8 + math.ceil(FLIPS * spec.d_in * (spec.d_in + 1) / 2)

    def build(self, fitted: ChipReadings, others: ChipReadings) -> tuple[Build, bool]:
        measured, nominal = list(zip(self._programmings, fitted.readings, strict=True)), self._chip.build
        if self._signs is None:
            growth = LinearGrowth(self._walk, self._base, fitted.x, measured)
            growth.run(self.dead)
            self.suspects = growth.suspects()
            build = replace(
                nominal, offset=growth.offset, splitters=growth.errors, slopes=_slopes(nominal, growth.dead)
            )
            return scaled(self._chip, build, fitted), growth.left[-1] <= LOST
        flips = (others.x, others.readings[0], others.readings[1]) if len(self.more) else None
        growth = PowerGrowth(self._walk, self._base, fitted.x, measured, self._signs, flips)
        growth.run(self.dead)
        self.suspects = growth.suspects()
        each = self._chip.readout.ports_each
        gains = growth.gains / amplitude(nominal).square().view(-1, each).mean(1)
        dark = torch.zeros(len(growth.dark), each, dtype=torch.float64)
        dark[:, 0] = growth.dark
        build = replace(nominal, offset=growth.offset, splitters=growth.errors, dark=dark.flatten())
        build = replace(build, slopes=_slopes(nominal, growth.dead))
        return replace(build, responsivity=gains.repeat_interleave(each)), growth.left[-1] <= LOST


def way(chip: Chip, spec: Declaration, precision: Precision, generator: torch.Generator) -> Way:
    """The way that serves a chip at the least cost."""
    return (ClosedForm if closed(chip, spec) else Grown)(chip, spec, precision, generator)


def closed(chip: Chip, spec: Declaration) -> bool:
    """Whether the closed form serves the chip."""
    rectangular = isinstance(chip.design, Rectangular) and chip.design.splitters == 2
    if chip.heaters is not None and chip.heaters.top < 2 * math.pi:  # the closed form turns phases by 3π/2 and more
        return False
    return rectangular and isinstance(chip.readout, Field) and (2 * spec.d_out >= chip.modes or chip.modes <= SMALL)


def priced(chip: Chip, spec: Declaration, precision: Precision) -> tuple[int, int]:
    """How many programmings a way takes, and the rows of all of them."""
    if closed(chip, spec):
        programmings = count(chip.modes, spec.d_out, precision.repeats)
        return programmings, programmings * precision.rows
    found = Grown(chip, spec, precision, torch.Generator().manual_seed(0))
    rows = len(found.drives) * precision.rows + len(found.more) * found.more_rows
    return len(found.drives) + len(found.more), rows


def scaled(chip: Chip, build: Build, fitted: ChipReadings) -> Build:
    """The build with the gain of all outputs together, which a growth does not see: that of equal powers, which a model
    that errs does not shrink.
    """
    found = chip.transfer_with(fitted.x, fitted.theta, build)
    gain = fitted.readings.norm() / found.norm().clamp_min(1e-30)
    return replace(build, loss_out=build.loss_out - gain.clamp_min(1e-12).log())


def _slopes(nominal: Build, dead: list[int]) -> Tensor:
    slopes = nominal.slopes.clone()
    slopes[dead] = DEAD
    return slopes


def amplitude(build: Build) -> Tensor:
    """The transmission of the ports, of amplitude, (ports,)."""
    return torch.exp(-build.loss_out - build.loss_in.mean())


def _signs(chip: Chip) -> Tensor | None:
    """Of the powers that make an output; None for fields."""
    if isinstance(chip.readout, Field):
        return None
    return torch.tensor([1.0, -1.0], dtype=torch.float64)[: chip.readout.ports_each]
