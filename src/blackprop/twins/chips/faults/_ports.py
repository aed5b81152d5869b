"""Faults of ports that readings show: outputs without light, and rows that overdrive a detector."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from blackprop.devices.photonic.chips import Field, Readout

DARK = 40.0  # nepers of amplitude, the loss of a port that gives no light
FAINT = 1e-4  # of the power of the usual output, below which a port counts as dark
NOISY = 2.0  # times the variance of the noise, the same
LEAST, PILED, NEAR = 6, 3.0, 0.005  # readings at one value, times those close below, of the range: an end of a detector
NAMED = 16  # numbers that a text lists


def unlit(readings: Tensor, variance: float) -> tuple[int, ...]:
    """The outputs whose readings (settings, rows, outputs), of a `variance` of noise, do not follow the rows."""
    if not readings.numel():
        return ()
    power = (readings - readings.mean(1, keepdim=True)).square().mean((0, 1))
    least = max(FAINT * float(power.median()), NOISY * variance)
    # A calibration of noise alone has no dark port: all are.
    dark = power < least
    return tuple(dark.nonzero().flatten().tolist()) if int(dark.sum()) <= len(dark) // 2 else ()


def clipped(readout: Readout | Field, sets: list[Tensor]) -> list[Tensor]:
    """Where sets of readings (settings, rows, outputs) stand at the end of a detector's range, bool.

    Readings pile up there: many have one and the same value, and few are close to it. The lower end of powers is zero,
    where many are in any case.
    """
    values = torch.cat([each.flatten(0, 1) for each in sets if each.numel()])  # (m, outputs)
    ends = [_end(values)]
    if readout.linear or readout.ports_each > 1:
        ends.append(-_end(-values))
    found = []
    for each in sets:
        above = each >= ends[0] if each.numel() else each.bool()
        found.append(above | (each <= ends[-1]) if len(ends) > 1 and each.numel() else above)
    return found


def _end(values: Tensor) -> Tensor:
    """The upper end (outputs,) of the range of each output; infinite where readings do not reach one."""
    top, size = values.amax(0), (values.amax(0) - values.amin(0)).clamp_min(1e-300)
    at = values == top
    below = torch.where(at, -torch.inf, values).amax(0)
    near = (values < top) & (values >= torch.minimum(top - NEAR * size, below))
    piled = (at.sum(0) >= LEAST) & (at.sum(0) > PILED * near.sum(0)) & below.isfinite()
    return torch.where(piled, top, torch.inf)


def listed(numbers: Sequence[int]) -> str:
    """The first of some numbers, and how many there are more."""
    more = len(numbers) - NAMED
    return ", ".join(map(str, numbers[:NAMED])) + (f" and {more} more" if more > 0 else "")


def faults(
    dark_inputs: Sequence[int], dark_outputs: Sequence[int], rows: Sequence[int], sent: int, refused: bool
) -> list[str]:
    """The faults of ports and rows, each with a remedy."""
    found = []
    ports = [("input", dark_inputs, "n_in"), ("output", dark_outputs, "n_out")]
    for kind, numbers, name in ports:
        if numbers:
            rest = (
                f"the calibration is refused: mend it, or declare a chip without it, `Chip({name}=...)`"
                if refused
                else "the model has none there either; check its fibre, and its detector or source"
            )
            found.append(f"no light at {kind} {listed(numbers)}: {rest}")
    if rows:
        rest = "the calibration is refused" if refused else "they are left out"
        found.append(
            f"{len(rows)} of {sent} rows overdrive a detector, whose readings stand at the end of its range: "
            f"{listed(rows)}; {rest}. Scale the inputs down, or widen the range of the converter"
        )
    return found
