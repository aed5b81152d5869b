"""The calibration of a chip as a procedure: read, find a first build, fit it jointly, check it."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import islice, pairwise

import torch
from torch import Tensor

from blackprop.core._declaration import Declaration
from blackprop.core._probes import within
from blackprop.core._procedure import Procedure, in_rounds
from blackprop.core._query import Purpose, Query
from blackprop.devices.photonic.chips import Build, Butterfly, Chip, Field
from blackprop.errors import IncompatibleError
from blackprop.twins.chips._polish import DEAD, ChipReadings, Prior, polishing, residual
from blackprop.twins.chips._precision import HELD_OUT, HELD_ROWS, MANY_HELD_OUT, Precision
from blackprop.twins.chips._ways import Grown, Way, closed, priced, way

LEAST = 4  # modes
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


@dataclass(frozen=True, eq=False)
class Found:
    """The result of a calibration.

    **Attributes:** `build`; `held_out`, the relative residual of readings that it was not made from, noise included;
    `fitted`, of those that it was made from; `noise`, the relative noise of a reading, as rows that
    are read twice show it; `accepted`, whether the build explains the held-out readings; `dead`, the numbers in θ of
    shifters that do not answer to their setting, where the build explains the readings well; `drift`, by how much of
    its size the reading of one setting changed from the first to the last programming, noise taken off; `moved`,
    whether that is more than chance; `check`, the held-out readings, None where there are none.
    """

    build: Build
    held_out: float
    fitted: float
    noise: float
    accepted: bool
    drift: float = 0.0
    check: ChipReadings | None = None

    @property
    def moved(self) -> bool:
        return self.drift > max(MOVED * self.noise, LITTLE)

    @property
    def dead(self) -> Tensor:
        return (self.build.slopes == DEAD) & (self.held_out < CLEAR)


def check_design(chip: Chip, spec: Declaration) -> None:
    """Raise `IncompatibleError` where no calibration knows the chip."""
    power = not isinstance(chip.readout, Field)
    reasons = (
        (chip.heaters is not None and chip.heaters.top < 2 * math.pi, "heaters that reach a phase of 2π"),
        (chip.modes < LEAST, f"{LEAST} modes or more"),
        (spec.d_out < 2, "2 outputs or more"),
        (power and spec.d_in < chip.modes, "all inputs driven where powers are read"),
        # At 8 modes and 1 % noise, 7 of 12 trials left 8 to 95 % of fresh readings unexplained.
        (power and isinstance(chip.design, Butterfly) and chip.design.splitters == 2, "a readout of fields"),
    )
    for fails, needed in reasons:
        if fails:
            raise IncompatibleError(f"the calibration of a chip needs {needed}; {spec.name} has something else")


def usual(chip: Chip) -> Precision:
    """How precisely a chip is read by default."""
    modes = chip.modes
    if closed(chip, chip.declaration):
        return Precision(rows=max(32, modes)) if chip.heaters is None else Precision.heated(modes)
    return layered(chip)


def layered(chip: Chip) -> Precision:
    """How precisely a growth layer by layer reads by default."""
    modes, linear = chip.modes, isinstance(chip.readout, Field)
    each = Precision(rows=max(32, 2 * modes if linear else 3 * modes // 2), iterations=240)
    return each if chip.heaters is None else replace(each, repeats=2, more=6 * modes, iterations=120)


def costs(chip: Chip, spec: Declaration, precision: Precision) -> tuple[int, int]:
    """How many programmings and rows `calibrate` asks for."""
    programmings, rows = priced(chip, spec, precision)
    held = held_out(chip, spec)
    return programmings + precision.more + held, rows + precision.more * precision.rows + 2 * held * HELD_ROWS


def held_out(chip: Chip, spec: Declaration) -> int:
    """How many settings the fit does not see: more behind a growth, which may miss one block alone."""
    return HELD_OUT if closed(chip, spec) else MANY_HELD_OUT


def calibrate(
    chip: Chip, spec: Declaration, precision: Precision, amplitude: float, like: Tensor, generator: torch.Generator
) -> Procedure[Found]:
    """Find the build of the chip that `spec` declares, `chip` being its design without errors.

    Heaters are driven in a narrow range at first, which takes their slopes for nominal and their crosstalk for none.
    The joint fit finds both, first on those readings and then on all.

    The closed form knows no dead shifters. Where its readings show one, and it does not explain the held-out ones, the
    growth follows, which finds them.

    **Costs** those of `costs`, booked as `CALIBRATE`; no setting depends on a reading. A growth that follows costs a
    pass more.

    **Arguments:** `amplitude`, the root mean square of the entries of the rows; `like`, a tensor whose dtype and place
    queries have. All random numbers come from `generator`.
    """
    first = way(chip, spec, precision, generator)
    found = yield from _once(chip, spec, first, precision, amplitude, like, generator)
    if not first.doubted or spec.d_out < chip.modes or found.held_out < max(FAR * found.noise, EXACT):
        return found
    again = replace(layered(chip), more=precision.more)
    second = Grown(chip, spec, again, generator)
    other = yield from _once(chip, spec, second, again, amplitude, like, generator)
    return min(found, other, key=lambda each: each.held_out)


def _once(
    chip: Chip,
    spec: Declaration,
    first: Way,
    precision: Precision,
    amplitude: float,
    like: Tensor,
    generator: torch.Generator,
) -> Procedure[Found]:
    counts = precision.rows, HELD_ROWS, first.more_rows
    rows, held, others = (_rows(spec, count, amplitude, like, generator) for count in counts)
    drives, flips = (each if chip.heaters is None else chip.heaters.volts(each) for each in (first.drives, first.more))
    more, last = (_anywhere(chip, count, generator) for count in (precision.more, held_out(chip, spec) - 1))
    grid, last, twice = torch.cat((drives, more)), torch.cat((last, last[:1])), torch.cat((held, held))
    # One of the held-out settings is read first and last: a chip that moves meanwhile reads differently.
    sent = (twice, last[:1]), (rows, grid), (others, flips), (twice, last[1:])
    queries = [Query(x, t, Purpose.CALIBRATE) for x, ts in sent for t in ts.to(like)]
    answers = [y.flatten(1).cpu().double() for y in (yield from in_rounds(queries, spec.d_out))]
    read = [torch.stack(answers[a:b]) if b > a else torch.empty(0, 0, spec.d_out) for a, b in _places(sent)]
    once, again = torch.cat((read[0], read[3])).chunk(2, 1)
    noise = float((once - again).norm() / (once.square() + again.square()).sum().sqrt().clamp_min(1e-30))
    flat = [x.flatten(1).cpu().double() for x in (rows, held, others)]
    fitted = ChipReadings(flat[0], grid, read[1])
    means = (once + again) / 2
    check = ChipReadings(flat[1], last, means)
    found = _solve(chip, first, len(drives), fitted, ChipReadings(flat[2], flips, read[2]), check, precision, noise)
    moved = float((means[0] - means[-1]).norm() / means[[0, -1]].square().sum().div(2).sqrt().clamp_min(1e-30))
    if not math.isfinite(found.held_out):
        return found
    return replace(found, check=check, drift=math.sqrt(max(0.0, moved**2 - noise**2)))


def better(chip: Chip, held: Build, found: Found) -> Found:
    """`found`, or with the build that is `held` already, where that explains the new held-out readings as well."""
    if found.check is None:
        return found
    left = residual(chip, held, found.check)
    return found if found.held_out < left else replace(found, build=held, held_out=left, accepted=left < ACCEPTED)


def _places(sent: tuple[tuple[Tensor, Tensor], ...]) -> list[tuple[int, int]]:
    ends = [0]
    for _, settings in sent:
        ends.append(ends[-1] + len(settings))
    return list(pairwise(ends))


def _solve(
    chip: Chip,
    first: Way,
    count: int,
    fitted: ChipReadings,
    others: ChipReadings,
    check: ChipReadings,
    precision: Precision,
    noise: float,
) -> Found:
    if not 0 < float(fitted.readings.norm()) < math.inf:  # a dry run, or a dark chip
        return Found(chip.build, math.inf, math.inf, noise, accepted=False)
    begun = ChipReadings(fitted.x, fitted.theta[:count], fitted.readings[:count])
    build, good = first.build(begun, others)
    if good:
        # Settings far from those of the growth mislead a fit that does not know the slopes of the heaters yet.
        for some in (begun, fitted) if chip.heaters is not None and precision.more else (fitted,):
            build = _fitted(chip, build, some, precision, noise)
        still = _without_heat(chip, build)
        if bool((still.slopes != build.slopes).any()):
            build = _fitted(chip, still, fitted, precision, noise)
    held_out, found = residual(chip, build, check), residual(chip, build, fitted)
    return Found(build, held_out, found, noise, accepted=held_out < ACCEPTED)


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


def _rows(spec: Declaration, count: int, amplitude: float, like: Tensor, generator: torch.Generator) -> Tensor:
    draw = torch.randn(count, spec.d_in, generator=generator, device=generator.device, dtype=like.dtype)
    return within(spec, (amplitude * draw).to(like.device).unflatten(1, spec.in_shape))


def _anywhere(chip: Chip, count: int, generator: torch.Generator) -> Tensor:
    """Settings (count, P) anywhere on the circle, or between the limits of the heaters, float64."""
    draw = torch.rand(count, chip.theta.size, generator=generator, device=generator.device, dtype=torch.float64)
    return (2 * math.pi if chip.heaters is None else chip.heaters.v_max) * draw.cpu()
