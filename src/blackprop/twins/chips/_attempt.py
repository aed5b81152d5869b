"""One pass over a chip: its readings, and the build that explains them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice, pairwise
from typing import final

import torch
from torch import Tensor

from blackprop.core._declaration import Declaration
from blackprop.core._probes import within
from blackprop.core._procedure import Procedure, in_rounds
from blackprop.core._query import Purpose, Query
from blackprop.devices.photonic.chips import Build, Chip, Field
from blackprop.twins.chips._polish import DEAD, ChipReadings, Prior, polishing, residual
from blackprop.twins.chips._precision import HELD_ROWS, Precision
from blackprop.twins.chips._ways import Way, scaled
from blackprop.twins.chips.faults._ports import DARK, clipped, faults, unlit

SPLITTERS = Prior(0.0, 0.05)  # rad, as foundries build them
SLOPES, CROSSTALK = Prior(0.0, 0.05), Prior(0.0, 0.02)
DETECTORS = 0.05  # relative, of responsivities; of the power of a row, of dark levels
LOSSES = 0.1  # of the nominal loss, its spread from part to part
ROUNDS = 4  # of the joint fit, between which it is looked at
ENOUGH, GAIN = 1.02, 1e-3  # times the noise, and of the residual: a fit that leaves and gains no more is done
FAR = 5.0  # times the noise: readings that are left beyond are not explained
EXACT = 1e-6  # a residual below which single precision cannot improve the fit
MOVED, LITTLE = 1.5, 1e-3  # times the noise, and of a reading: a larger change is not chance
FAINT = -0.75  # of a slope that the joint fit found, below which a heater does not heat
CLEAR = 0.25  # held-out residual up to which shifters are named as dead
ACCEPTED = 0.5  # held-out residual up to which the gradients still train as well as exact ones
KEPT = 0.5  # of the rows, that must be left where some are clipped


@dataclass(frozen=True, eq=False)
class Found:
    """The result of a calibration.

    **Attributes:** `build`; `held_out`, the relative residual of readings that it was not made from, noise included;
    `fitted`, of those that it was made from; `noise`, the relative noise of a reading, as rows that
    are read twice show it; `accepted`, whether the build explains the held-out readings; `dead`, the numbers in θ of
    shifters that do not answer to their setting, where the build explains the readings well; `drift`, by how much of
    its size the reading of one setting changed from the first to the last programming, noise taken off; `moved`,
    whether that is more than chance; `check`, the held-out readings, None where there are none; `dark_inputs` and
    `dark_outputs`, ports that give no light; `clipped`, the rows that overdrive a detector; `refused`, whether
    these make a calibration impossible; `silent`, shifters that change no reading when they alone are turned.
    """

    build: Build
    held_out: float
    fitted: float
    noise: float
    accepted: bool
    drift: float = 0.0
    check: ChipReadings | None = None
    dark_inputs: tuple[int, ...] = ()
    dark_outputs: tuple[int, ...] = ()
    clipped: tuple[int, ...] = ()
    refused: bool = False
    silent: tuple[int, ...] = ()

    @property
    def moved(self) -> bool:
        return self.drift > max(MOVED * self.noise, LITTLE)

    def faults(self, sent: int) -> list[str]:
        """The faults of ports and of rows, of which `sent` were sent at each setting."""
        return faults(self.dark_inputs, self.dark_outputs, self.clipped, sent, self.refused)

    @property
    def dead(self) -> Tensor:
        found = (self.build.slopes == DEAD) & (self.held_out < CLEAR)
        found[list(self.silent)] = True
        return found


@dataclass(frozen=True, eq=False)
class Attempt:
    """The readings of a way: `fitted`, the first `count` settings of which are those of the way, `others` those of its
    `more`, `check` those that no fit sees; the relative `noise` of a reading and its `variance`; the `drift` meanwhile.

    Of the rows whose readings stand at the end of a detector's range, `clipped`, none is in it. `unlit` are the outputs
    that give no light.
    """

    chip: Chip
    way: Way
    precision: Precision
    fitted: ChipReadings
    count: int
    others: ChipReadings
    check: ChipReadings
    noise: float
    variance: float
    drift: float
    clipped: tuple[int, ...]
    unlit: tuple[int, ...]

    @property
    def blank(self) -> bool:
        """Whether a fit is impossible: a dry run, a dark chip, or detectors that are overdriven."""
        some = len(self.fitted.x) and len(self.check.x) and 0 < float(self.fitted.readings.norm()) < math.inf
        return not some

    def solved(self, dead: Sequence[int] = (), dark: Sequence[int] = ()) -> Found:
        """The build that explains the readings, some shifters being known as dead and some inputs as `dark`."""
        chip, fits = self.chip, [_without(each, dark) for each in (self.fitted, self.others, self.check)]
        fitted, others, check = fits
        if self.blank:
            return self.told(chip.build, math.inf, math.inf, dark)
        begun = ChipReadings(fitted.x, fitted.theta[: self.count], fitted.readings[: self.count])
        self.way.dead = tuple(dead)
        build, good = self.way.build(begun, others)
        build = self._shut(build, dark, begun)
        if good:
            # Settings far from those of the growth mislead a fit that does not know the slopes of the heaters yet.
            for some in (begun, fitted) if chip.heaters is not None and self.precision.more else (fitted,):
                build = _fitted(chip, build, some, self.precision, self.noise)
            still = _without_heat(chip, build)
            if bool((still.slopes != build.slopes).any()):
                build = _fitted(chip, still, fitted, self.precision, self.noise)
        return self.told(build, residual(chip, build, check), residual(chip, build, fitted), dark)

    def told(self, build: Build, held_out: float, fitted: float, dark: Sequence[int] = ()) -> Found:
        """The result that a build is, which leaves so much of the readings."""
        refused = bool(self.clipped) and self.blank
        return Found(
            build,
            held_out,
            fitted,
            self.noise,
            accepted=held_out < ACCEPTED and not refused,
            drift=self.drift,
            check=None if self.blank else self.check,
            dark_inputs=tuple(dark),
            dark_outputs=self.unlit,
            clipped=self.clipped,
            refused=refused,
        )

    def _shut(self, build: Build, dark: Sequence[int], begun: ChipReadings) -> Build:
        """The build without light at the ports that have none."""
        if not dark and not self.unlit:
            return build
        loss_in, loss_out = build.loss_in.clone(), build.loss_out.clone()
        loss_in[list(dark)], loss_out[list(self.unlit)] = DARK, DARK
        return scaled(self.chip, replace(build, loss_in=loss_in, loss_out=loss_out), begun)


@final
class Unmoved(Way):
    """No settings of its own, for a chip that is known."""

    def __init__(self, chip: Chip) -> None:
        self._known = chip.build
        self.drives = self.more = torch.empty(0, chip.theta.size, dtype=torch.float64)

    def build(self, fitted: ChipReadings, others: ChipReadings) -> tuple[Build, bool]:
        del fitted, others
        return self._known, True


def attempted(
    chip: Chip,
    spec: Declaration,
    first: Way,
    precision: Precision,
    held: int,
    amplitude: float,
    like: Tensor,
    generator: torch.Generator,
) -> Procedure[Attempt]:
    """Read the settings of a way, `precision.more` besides, and `held` ones that no fit sees."""
    counts = precision.rows, HELD_ROWS, first.more_rows
    rows, checked, others = (drawn_rows(spec, count, amplitude, like, generator) for count in counts)
    drives, flips = (each if chip.heaters is None else chip.heaters.volts(each) for each in (first.drives, first.more))
    more, last = (anywhere(chip, count, generator) for count in (precision.more, held - 1))
    grid, last, twice = torch.cat((drives, more)), torch.cat((last, last[:1])), torch.cat((checked, checked))
    # One of the held-out settings is read first and last: a chip that moves meanwhile reads differently.
    sent = (twice, last[:1]), (rows, grid), (others, flips), (twice, last[1:])
    queries = [Query(x, t, Purpose.CALIBRATE) for x, ts in sent for t in ts.to(like)]
    answers = [y.flatten(1).cpu().double() for y in (yield from in_rounds(queries, spec.d_out))]
    read = [torch.stack(answers[a:b]) if b > a else torch.empty(0, 0, spec.d_out) for a, b in _places(sent)]
    both = torch.cat((read[0], read[3]))
    once, again = both.chunk(2, 1)
    noise = float((once - again).norm() / (once.square() + again.square()).sum().sqrt().clamp_min(1e-30))
    means, variance = (once + again) / 2, float((once - again).square().mean()) / 2
    moved = float((means[0] - means[-1]).norm() / means[[0, -1]].square().sum().div(2).sqrt().clamp_min(1e-30))
    ends = clipped(chip.readout, [read[1], read[2], both])
    lost = [(each.flatten(2).any(2).any(0)).nonzero().flatten() for each in (ends[0], ends[1])]
    bad = [*lost, ends[2].any(2).any(0).view(2, -1).any(0).nonzero().flatten()]
    flat = [x.flatten(1).cpu().double() for x in (rows, others, checked)]
    own, flipped, held_out = [
        _kept(x, theta, y, rows_)
        for x, theta, y, rows_ in zip(flat, (grid, flips, last), (read[1], read[2], means), bad, strict=True)
    ]
    drift, lost_rows = math.sqrt(max(0.0, moved**2 - noise**2)), tuple(bad[0].tolist())
    told = noise, variance, drift, lost_rows, unlit(read[1], variance)
    return Attempt(chip, first, precision, own, len(drives), flipped, held_out, *told)


def _kept(x: Tensor, theta: Tensor, y: Tensor, lost: Tensor) -> ChipReadings:
    """The readings of the rows that are not lost; of none where too few are left."""
    if not len(lost):
        return ChipReadings(x, theta, y)
    kept = torch.ones(len(x), dtype=torch.bool)
    kept[lost] = False
    if float(kept.double().mean()) < KEPT:
        kept[:] = False
    return ChipReadings(x[kept], theta, y[:, kept])


def _without(measured: ChipReadings, dark: Sequence[int]) -> ChipReadings:
    """The same readings with no light sent into some inputs."""
    if not dark:
        return measured
    x = measured.x.clone()
    x[:, list(dark)] = 0.0
    return replace(measured, x=x)


def _places(sent: tuple[tuple[Tensor, Tensor], ...]) -> list[tuple[int, int]]:
    ends = [0]
    for _, settings in sent:
        ends.append(ends[-1] + len(settings))
    return list(pairwise(ends))


def _without_heat(chip: Chip, build: Build) -> Build:
    """The build in which the shifters that hardly answer do not answer at all."""
    if chip.heaters is None:
        return build
    silent = build.slopes < FAINT
    middle = build.offset + (1 + build.slopes) * chip.heaters.top / 2
    return replace(
        build, slopes=torch.where(silent, DEAD, build.slopes), offset=torch.where(silent, middle, build.offset)
    )


def _fitted(chip: Chip, build: Build, fitted: ChipReadings, precision: Precision, noise: float) -> Build:
    """The joint fit, until it leaves no more than noise and gains no more, or its iterations are used up."""
    best, left = build, residual(chip, build, fitted)
    if not precision.iterations or left <= max(ENOUGH * noise, EXACT):
        return best
    steps = math.ceil(precision.iterations / ROUNDS)
    priors = _priors(chip, build)
    search = polishing(chip, build, [fitted], free=("offset", *priors), priors=priors, noise=noise, steps=steps)
    for best in islice(search, ROUNDS):
        found = residual(chip, best, fitted)
        gained, left = left - found, found
        if found <= ENOUGH * noise and gained < GAIN * found:
            break
    return best


def _priors(chip: Chip, build: Build) -> dict[str, Prior]:
    """Of the splitters, and of losses and heaters where the design has some."""
    found = {"splitters": SPLITTERS}
    for name in ("loss", "loss_in", "loss_out"):
        nominal = float(getattr(chip.build, name).mean())
        if nominal > 0:  # the gain of all outputs has gone into the losses of their ports
            found[name] = Prior(float(getattr(build, name).mean()), LOSSES * nominal)
    if chip.heaters is not None:
        found |= {"slopes": SLOPES, "crosstalk": CROSSTALK}
    if not isinstance(chip.readout, Field):
        gain = float(build.responsivity.mean())
        found |= {"responsivity": Prior(gain, DETECTORS * gain), "dark": Prior(0.0, DETECTORS * gain)}
    return found


def drawn_rows(spec: Declaration, count: int, amplitude: float, like: Tensor, generator: torch.Generator) -> Tensor:
    draw = torch.randn(count, spec.d_in, generator=generator, device=generator.device, dtype=like.dtype)
    return within(spec, (amplitude * draw).to(like.device).unflatten(1, spec.in_shape))


def anywhere(chip: Chip, count: int, generator: torch.Generator) -> Tensor:
    """Settings (count, P) anywhere on the circle, or between the limits of the heaters, float64."""
    draw = torch.rand(count, chip.theta.size, generator=generator, device=generator.device, dtype=torch.float64)
    return (2 * math.pi if chip.heaters is None else chip.heaters.v_max) * draw.cpu()
