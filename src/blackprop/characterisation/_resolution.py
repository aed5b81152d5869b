"""Are readings rounded, and how coarsely?"""

from __future__ import annotations

from torch import Tensor

from blackprop.characterisation._device_under_test import DeviceUnderTest
from blackprop.characterisation._findings import Finding, sure

FINEST = 1e-5  # of the range of the readings: finer steps are indistinguishable from single precision
FITS = 0.02  # of a step: how far a reading may be from a multiple of it


def resolution(dut: DeviceUnderTest, readings: Tensor) -> Finding:
    """Return the largest step q of which all readings are multiples, counted from one reading; store it in `dut`.

    Found by Euclid's algorithm on the gaps between different readings. Continuous readings have no such step: the
    remainders of some hundred of them are never all under a fiftieth of it.
    """
    values = readings.double().flatten().unique()
    step = _common_step(values)
    if step is None:
        text = f"{len(values)} different readings are multiples of no common step"
        return Finding("resolution", None, True, text, sure(len(values)))
    dut.quantum = step
    text = (
        f"all {readings.numel()} readings are multiples of {step:.4g}, {step / dut.size:.2g} of the outputs: they "
        f"are rounded, which errs by {dut.rounding / dut.size:.2g} of them and which no repetition averages out"
    )
    return Finding("resolution", step, True, text, sure(len(values)))


def _common_step(values: Tensor) -> float | None:
    """Return the common step of sorted, different values; None if there is none above single precision."""
    if len(values) < 3:
        return None
    span, error = float(values[-1] - values[0]), 1e-6 * float(values.abs().max())
    least = max(FINEST * span, 20 * error)
    step = 0.0
    for gap in values.diff().tolist():
        larger, step = max(step, gap), min(step, gap)
        while step > 4 * error:
            larger, step = step, abs(larger - step * round(larger / step))
        step = larger
        if step < least:
            return None
    counts = ((values - values[0]) / step).round()
    step = float(((values - values[0]) * counts).sum() / counts.square().sum())
    off = float(((values - values[0]) / step - counts).abs().max())
    return step if off < FITS else None
