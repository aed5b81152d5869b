"""The calibration of a chip as a procedure: read, find a first build, fit it jointly, check it."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from blackprop.core._declaration import Declaration
from blackprop.core._procedure import Procedure
from blackprop.devices.photonic.chips import Build, Butterfly, Chip, Field
from blackprop.errors import IncompatibleError
from blackprop.twins.chips._attempt import ACCEPTED, EXACT, FAR, LITTLE, MOVED, Attempt, Found, Unmoved, attempted
from blackprop.twins.chips._polish import residual
from blackprop.twins.chips._precision import HELD_OUT, HELD_ROWS, MANY_HELD_OUT, Precision
from blackprop.twins.chips._ways import Grown, closed, priced, way
from blackprop.twins.chips.faults._diagnosis import dark_inputs, still
from blackprop.twins.chips.faults._mending import mended

LEAST = 4  # modes
LEAST_REACH = 1.15 * math.pi  # rad, of heaters: half a turn, with a range to draw settings from
DEEP = 32  # columns that one pass of a growth passes: its errors grow exponentially with columns / repeats
POOR = 0.02  # a residual above which a reason is looked for
SURVEYED, CHECKED, LEAST_ROWS = 20, 8, 16  # settings that show the parts that moved, those that check, and rows
TWICE = 2.2  # times the noise or the residual before: readings that a chip with moved parts may leave
NEARLY = 1.05  # times the noise and the known error: a mended chip is not mended further
MANY = 8  # dead shifters, beyond which no more are looked for


def check_design(chip: Chip, spec: Declaration) -> None:
    """Raise `IncompatibleError` where no calibration knows the chip."""
    power = not isinstance(chip.readout, Field)
    reasons = (
        (
            chip.heaters is not None and chip.heaters.top < LEAST_REACH,
            f"heaters that reach a phase of {LEAST_REACH / math.pi:.2f}π",
        ),
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
    repeats = max(1, round(len(chip.layout.columns) / DEEP))
    each = Precision(rows=max(32, 2 * modes if linear else 3 * modes // 2), repeats=repeats, iterations=240)
    return each if chip.heaters is None else replace(each, repeats=max(2, repeats), more=6 * modes, iterations=120)


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

    The closed form knows no dead shifters and no dark outputs. Where its readings show one, and it does not explain the
    held-out ones, the growth follows, which finds them. Where that leaves the held-out readings unexplained, the inputs
    are lit one at a time, and the shifters are turned one at a time around the layer from which on the growth erred.

    **Costs** those of `costs`, booked as `CALIBRATE`; no setting of them depends on a reading. A growth that follows
    costs a pass more. The inputs cost 4 programmings of d_in + 1 rows; the shifters of four layers one each of 16 rows,
    and one more, again wherever dead ones are found.

    **Arguments:** `amplitude`, the root mean square of the entries of the rows; `like`, a tensor whose dtype and place
    queries have. All random numbers come from `generator`.
    """
    first, sent, held = way(chip, spec, precision, generator), (amplitude, like, generator), held_out(chip, spec)
    attempt = yield from attempted(chip, spec, first, precision, held, *sent)
    found = attempt.solved()
    if _done(attempt, found):
        return found
    growing = closed(chip, spec)
    if growing and ((first.doubted and spec.d_out >= chip.modes) or attempt.unlit):
        found, attempt = yield from _grown(attempt, found, spec, (), *sent)
        growing = False
    if _explained(found, POOR) or _done(attempt, found):
        return found
    dark = yield from dark_inputs(chip, spec, attempt.variance, *sent)
    if dark and not isinstance(chip.readout, Field):
        return replace(found, dark_inputs=dark, refused=True, accepted=False)
    if dark:
        found = min(found, attempt.solved(dark=dark), key=_left)
    if dark and growing and not _explained(found, POOR):
        found, attempt = yield from _grown(attempt, found, spec, dark, *sent)
    dead: list[int] = []
    while len(attempt.way.suspects) and len(dead) < MANY and not _explained(found, POOR):
        fresh = yield from still(chip, spec, attempt.way.suspects, dead, attempt.variance, *sent)
        if not fresh:
            break
        dead += fresh
        found = min(found, attempt.solved(dead, dark), key=_left)
    return replace(found, dark_inputs=dark, silent=tuple(sorted(dead)))


def _left(found: Found) -> float:
    return found.held_out


def _grown(
    attempt: Attempt,
    found: Found,
    spec: Declaration,
    dark: tuple[int, ...],
    amplitude: float,
    like: Tensor,
    generator: torch.Generator,
) -> Procedure[tuple[Found, Attempt]]:
    """A pass layer by layer behind the closed form."""
    chip = attempt.chip
    again = replace(layered(chip), more=attempt.precision.more)
    way, sent = Grown(chip, spec, again, generator), (amplitude, like, generator)
    other = yield from attempted(chip, spec, way, again, held_out(chip, spec), *sent)
    return min(found, other.solved(dark=dark), key=_left), other


def _done(attempt: Attempt, found: Found) -> bool:
    """Whether a build explains the readings, or no test can tell why it does not."""
    return attempt.blank or found.moved or _explained(found, EXACT)


def _explained(found: Found, least: float) -> bool:
    return found.held_out < max(FAR * found.noise, least)


def recalibrate(
    chip: Chip,
    spec: Declaration,
    held: Build,
    before: float,
    amplitude: float,
    like: Tensor,
    generator: torch.Generator,
) -> Procedure[Found | None]:
    """The build that is `held`, with the parts changed that have moved; None where that does not explain the readings.

    Settings anywhere are read, and the columns whose offsets differ are found from them (`mended`). Readings that no
    fit sees decide: they must be left to twice the noise, or to a little more than `before`, their residual when `held`
    was found.

    **Costs** 20 programmings of N rows, 16 at least, and 8 that check.
    """
    precision = Precision(rows=max(LEAST_ROWS, chip.modes), more=SURVEYED)
    attempt = yield from attempted(chip, spec, Unmoved(chip), precision, CHECKED, amplitude, like, generator)
    if attempt.blank or attempt.clipped or attempt.drift > max(MOVED * attempt.noise, LITTLE):
        return None
    wanted = max(TWICE * attempt.noise, TWICE * before, EXACT)
    build, left = held, residual(chip, held, attempt.check)
    if left > wanted:
        known = math.sqrt(max(0.0, before**2 - attempt.noise**2 / 2))  # the check averages two readings
        build, _ = mended(chip, held, attempt.fitted, NEARLY * max(math.hypot(attempt.noise, known), EXACT))
        after = residual(chip, build, attempt.check)
        if after > wanted:
            return None
        left = after
    return attempt.told(build, left, residual(chip, build, attempt.fitted))


def better(chip: Chip, held: Build, found: Found) -> Found:
    """`found`, or with the build that is `held` already, where that explains the new held-out readings as well."""
    if found.check is None:
        return found
    left = residual(chip, held, found.check)
    return found if found.held_out < left else replace(found, build=held, held_out=left, accepted=left < ACCEPTED)
