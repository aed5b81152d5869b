"""The calibration of a chip as a procedure: read, grow the model in closed form, fit it jointly, check it."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import islice

import torch
from torch import Tensor
from torch.nn.functional import pad

from blackprop.core._declaration import Declaration
from blackprop.core._probes import within
from blackprop.core._procedure import Procedure, in_rounds
from blackprop.core._query import Purpose, Query
from blackprop.devices.photonic.chips import Build, Chip, Field, Rectangular
from blackprop.errors import IncompatibleError
from blackprop.twins.chips._columns import HEATED, Columns
from blackprop.twins.chips._field import LOST, grown
from blackprop.twins.chips._polish import ChipReadings, Prior, polishing, residual
from blackprop.twins.chips._precision import HELD_OUT, HELD_ROWS, Precision
from blackprop.twins.chips._programme import Programming, programme

LEAST = 4  # modes
SPLITTERS = Prior(0.0, 0.05)  # rad, as foundries build them
SLOPES, CROSSTALK = Prior(0.0, 0.05), Prior(0.0, 0.02)
LOSSES = 0.1  # of the nominal loss, its spread from part to part
ROUNDS = 4  # of the joint fit, between which it is looked at
ENOUGH, GAIN = 1.02, 1e-3  # times the noise, and of the residual: a fit that leaves and gains no more is done
EXACT = 1e-6  # a residual below which single precision cannot improve the fit
ACCEPTED = 0.5  # held-out residual up to which the gradients still train as well as exact ones


@dataclass(frozen=True, eq=False)
class Found:
    """The result of a calibration.

    **Attributes:** `build`; `held_out`, the relative residual of readings that it was not made from, noise included;
    `fitted`, of those that it was made from; `noise`, the relative noise of a reading, as rows that
    are read twice show it; `accepted`, whether the build explains the held-out readings.
    """

    build: Build
    held_out: float
    fitted: float
    noise: float
    accepted: bool


def check_design(chip: Chip, spec: Declaration) -> None:
    """Raise `IncompatibleError` where the closed form does not know the design."""
    reasons = (
        (not isinstance(chip.design, Rectangular) or chip.design.splitters != 2, "a rectangular mesh of two splitters"),
        (not isinstance(chip.readout, Field), "a readout of the field"),
        (chip.heaters is not None and chip.heaters.top < 2 * math.pi, "heaters that reach a phase of 2π"),
        (chip.modes < LEAST, f"{LEAST} modes or more"),
        (spec.d_out < 2, "2 outputs or more"),
    )
    for fails, needed in reasons:
        if fails:
            raise IncompatibleError(f"the closed-form calibration needs {needed}; {spec.name} has something else")


def calibrate(
    chip: Chip, spec: Declaration, precision: Precision, amplitude: float, like: Tensor, generator: torch.Generator
) -> Procedure[Found]:
    """Find the build of the chip that `spec` declares, `chip` being its design without errors.

    Heaters are driven in a narrow range during the growth, which takes their slopes for nominal and their crosstalk for
    none; the joint fit finds both, first on the growth's readings and then on all.

    **Costs** `precision.programmings(N)` programmings and `precision.total_rows(N)` rows, booked as `CALIBRATE`; no
    setting depends on a reading.

    **Arguments:** `amplitude`, the root mean square of the entries of the rows; `like`, a tensor whose dtype and place
    queries have. All random numbers come from `generator`.
    """
    drives = HEATED if chip.heaters is not None else None
    columns = Columns(chip.layout, spec.d_out, loss=float(chip.build.loss.mean()), drives=drives)
    base, programmings = programme(columns, precision.repeats, generator)
    rows = _rows(spec, precision.rows, amplitude, like, generator)
    held = _rows(spec, HELD_ROWS, amplitude, like, generator)
    grid = columns.flat(torch.stack([each.drive for each in programmings]))
    grid = grid if chip.heaters is None else chip.heaters.volts(grid)
    more, last = (_anywhere(chip, count, generator) for count in (precision.more, HELD_OUT))
    settings = torch.cat((grid, more)).to(like), last.to(like)
    sent = rows, torch.cat((held, held))
    queries = [Query(x, t, Purpose.CALIBRATE) for x, ts in zip(sent, settings, strict=True) for t in ts]
    answers = yield from in_rounds(queries, spec.d_out)
    readings = torch.stack([y.flatten(1) for y in answers[: len(settings[0])]]).cpu().double()
    once, again = torch.stack([y.flatten(1) for y in answers[len(settings[0]) :]]).cpu().double().chunk(2, 1)
    noise = float((once - again).norm() / (once.square() + again.square()).sum().sqrt().clamp_min(1e-30))
    fitted = ChipReadings(rows.flatten(1).cpu().double(), torch.cat((grid, more)), readings)
    check = ChipReadings(held.flatten(1).cpu().double(), last, (once + again) / 2)
    return _solve(chip, columns, base, programmings, fitted, check, precision, noise)


def _solve(
    chip: Chip,
    columns: Columns,
    base: Tensor,
    programmings: list[Programming],
    fitted: ChipReadings,
    check: ChipReadings,
    precision: Precision,
    noise: float,
) -> Found:
    rows = pad(fitted.x, (0, chip.modes - fitted.x.shape[-1]))
    columns, left = grown(columns, base, rows, list(zip(programmings, fitted.readings, strict=False)))
    first = ChipReadings(fitted.x, fitted.theta[: len(programmings)], fitted.readings[: len(programmings)])
    build = _scaled(chip, columns.build(chip.build), first)
    if max(left) <= LOST:
        # Settings far from those of the growth mislead a fit that does not know the slopes of the heaters yet.
        for some in (first, fitted) if chip.heaters is not None and precision.more else (fitted,):
            build = _fitted(chip, build, some, precision, noise)
    held_out, found = residual(chip, build, check), residual(chip, build, fitted)
    return Found(build, held_out, found, noise, accepted=held_out < ACCEPTED)


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
    return found


def _scaled(chip: Chip, build: Build, fitted: ChipReadings) -> Build:
    """The build with the gain of all outputs together, which the growth does not see: that of equal powers, which a
    model that errs does not shrink.
    """
    found = chip.transfer_with(fitted.x, fitted.theta, build)
    gain = fitted.readings.norm() / found.norm().clamp_min(1e-30)
    return replace(build, loss_out=build.loss_out - gain.clamp_min(1e-12).log())


def _rows(spec: Declaration, count: int, amplitude: float, like: Tensor, generator: torch.Generator) -> Tensor:
    draw = torch.randn(count, spec.d_in, generator=generator, device=generator.device, dtype=like.dtype)
    return within(spec, (amplitude * draw).to(like.device).unflatten(1, spec.in_shape))


def _anywhere(chip: Chip, count: int, generator: torch.Generator) -> Tensor:
    """Settings (count, P) anywhere on the circle, or between the limits of the heaters, float64."""
    draw = torch.rand(count, chip.theta.size, generator=generator, device=generator.device, dtype=torch.float64)
    return (2 * math.pi if chip.heaters is None else chip.heaters.v_max) * draw.cpu()
