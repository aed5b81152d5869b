"""Tests of single ports and phase shifters, where a calibration leaves readings unexplained."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from blackprop.core._declaration import Declaration
from blackprop.core._probes import within
from blackprop.core._procedure import Procedure, in_rounds
from blackprop.core._query import Purpose, Query
from blackprop.devices.photonic.chips import Chip
from blackprop.errors import BudgetExhausted
from blackprop.twins.chips.faults._ports import FAINT, NOISY

ROWS, SETTINGS = 8, 4  # of the test of a shifter; of that of the inputs
SURE = 5.0  # standard deviations of the power of noise
SEEN = 10.0  # times that power, which a turn must change on the chip as designed
TURN = math.pi / 2  # rad
TRIES = 3  # chips of other offsets


def dark_inputs(
    chip: Chip, spec: Declaration, variance: float, amplitude: float, like: Tensor, generator: torch.Generator
) -> Procedure[tuple[int, ...]]:
    """The inputs that give no light, lit one at a time at 4 settings. **Costs** 4 programmings of d_in + 1 rows."""
    rows = torch.cat((torch.zeros(1, spec.d_in), amplitude * math.sqrt(spec.d_in) * torch.eye(spec.d_in)))
    x = within(spec, rows.to(like).unflatten(1, spec.in_shape))
    y = yield from _read(chip, x, _drawn(chip, SETTINGS, generator), spec, like)
    if y is None:
        return ()
    power = (y[:, 1:] - y[:, :1]).square().mean((0, 2))
    dark = power < max(FAINT * float(power.median()), 4 * NOISY * variance)
    return tuple(dark.nonzero().flatten().tolist()) if int(dark.sum()) <= len(dark) // 2 else ()


def still(
    chip: Chip,
    spec: Declaration,
    suspects: Tensor,
    known: Sequence[int],
    variance: float,
    amplitude: float,
    like: Tensor,
    generator: torch.Generator,
) -> Procedure[list[int]]:
    """Those of the `suspects`, but for the `known` ones, that change no reading when they alone are turned, where that
    changes the readings of the chip as designed; by two settings. **Costs** a programming of 8 rows for each, one more,
    and those again for the ones that are found.
    """
    left = sorted(set(suspects.tolist()) - set(known))
    for _ in range(2):
        rows = (amplitude * torch.randn(ROWS, spec.d_in, generator=generator, device=generator.device)).to(like)
        x = within(spec, rows.unflatten(1, spec.in_shape))
        settings = _drawn(chip, 1, generator).repeat(len(left) + 1, 1)
        settings[range(1, len(settings)), left] += TURN
        y = yield from _read(chip, torch.cat((x, x)), settings, spec, like)
        if y is None:
            return []
        once, again = y.chunk(2, 1)
        change = ((once - once[:1] + again - again[:1]) / 2)[1:].square().mean((1, 2))
        noise = max(float((once - again).square().mean()) / 2, variance)
        size = float(y.square().mean())
        none = noise * (1 + SURE * math.sqrt(2 / once[0].numel())) + FAINT**2 * size
        seen = size * _usual(chip, x.flatten(1).cpu().double(), settings, generator) > SEEN * none
        left = [each for each, c, s in zip(left, change.tolist(), seen.tolist(), strict=True) if s and c < none]
        if not left:
            break
    return left


def _read(chip: Chip, x: Tensor, phases: Tensor, spec: Declaration, like: Tensor) -> Procedure[Tensor | None]:
    """The readings (settings, rows, outputs); None where the budget does not suffice."""
    settings = phases if chip.heaters is None else chip.heaters.volts(phases)
    queries = [Query(x, t, Purpose.CALIBRATE) for t in settings.to(like)]
    try:
        answers = yield from in_rounds(queries, spec.d_out)
    except BudgetExhausted:
        return None
    return torch.stack([y.flatten(1).cpu().double() for y in answers])


def _drawn(chip: Chip, count: int, generator: torch.Generator) -> Tensor:
    """Phases (count, P), rad, with room for a turn."""
    top = 2 * math.pi if chip.heaters is None else chip.heaters.top - TURN
    draw = torch.rand(count, chip.theta.size, generator=generator, device=generator.device, dtype=torch.float64)
    return top * draw.cpu()


def _usual(chip: Chip, x: Tensor, phases: Tensor, generator: torch.Generator) -> Tensor:
    """The power of the change of each setting from the first one, of chips of other offsets, relative to the power of a
    reading (settings − 1,).
    """
    settings = phases if chip.heaters is None else chip.heaters.volts(phases)
    found = torch.zeros(len(phases) - 1, dtype=torch.float64)
    for _ in range(TRIES):
        draw = torch.rand(chip.theta.size, generator=generator, device=generator.device, dtype=torch.float64)
        build = replace(chip.build, offset=2 * math.pi * draw.cpu())
        with torch.no_grad():
            y = chip.transfer_with(x, settings, build)
        found += (y[1:] - y[:1]).square().mean((1, 2)) / y.square().mean() / TRIES
    return found
