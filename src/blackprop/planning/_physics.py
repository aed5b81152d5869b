"""Candidates for devices that declare more than a law: power taps, a reading backwards, or the design of a chip."""

from __future__ import annotations

from blackprop import twins
from blackprop.core._declaration import Declaration
from blackprop.core._ledger import Ledger
from blackprop.core._metered import Measurable
from blackprop.core._query import Purpose
from blackprop.core.capabilities._cells import Cells
from blackprop.core.capabilities._fields import Fields
from blackprop.core.capabilities._gains import Gains
from blackprop.core.capabilities._read_back import ReadBack
from blackprop.devices import Device
from blackprop.errors import ArgumentError, IncompatibleError
from blackprop.estimators import Estimator, ForwardMode, FromSurrogate, InSitu, Outer, ScatteringBackprop, Subspace
from blackprop.planning import _methods as methods
from blackprop.planning._price import Price
from blackprop.presets import Method
from blackprop.surrogates import Reciprocal, Surrogate

CHIP = "calibrated-chip"
SERVED = 0.75  # of the modes that are read, from which one pass of the calibration serves (`CalibratedChip`)


def reads_back(spec: Declaration) -> bool:
    """Whether the device gives the gradient of its input itself."""
    return spec.linear and spec.has(ReadBack)


def serves(estimator: Estimator, spec: Declaration) -> bool:
    """Whether the device declares all that the estimator uses."""
    try:
        estimator.check(spec)
    except IncompatibleError:
        return False
    return True


def is_tapped(spec: Declaration) -> bool:
    return serves(InSitu(), spec)


def is_crossbar(spec: Declaration) -> bool:
    return spec.has(Cells) and serves(Outer(), spec)


def has_fields(spec: Declaration) -> bool:
    return spec.has(Fields) and serves(ScatteringBackprop(), spec)


def has_gains(spec: Declaration) -> bool:
    return spec.has(Gains) and serves(Subspace(), spec)


def in_situ(spec: Declaration) -> Method:
    """θ from the taps; the input from the device read backwards, or from a model that follows it."""
    return Method(InSitu(), _both_ways(spec))


def outer(spec: Declaration) -> Method:
    """Cells from outer products."""
    return Method(Outer(), _both_ways(spec))


def from_fields(spec: Declaration) -> Method:
    """θ from the fields of rows and errors; of a device that is not linear, from two drives a row."""
    return Method(ForwardMode() if spec.linear else ScatteringBackprop(), _both_ways(spec))


def subspace(spec: Declaration) -> Method:
    """The gains alone, from light that arrives from both ends."""
    return Method(Subspace(8), _both_ways(spec))


def _both_ways(spec: Declaration) -> Surrogate:
    """The input from the device read backwards, or from a model that follows it."""
    return Reciprocal() if reads_back(spec) else methods.fitted(spec)


def reciprocal(spec: Declaration) -> Method:
    """θ from remembered perturbations, the input from the device read backwards."""
    return Method(methods.remembered(spec), Reciprocal())


def calibrated_chip(spec: Declaration) -> Method:
    """Both gradients from the declared design, calibrated in closed form."""
    surrogate = _chip(spec)
    return Method(FromSurrogate(surrogate), surrogate)


def backwards(spec: Declaration) -> str:
    """The addition to a reason where the input gradient is read backwards, too."""
    return "; the input gradient is read backwards" if reads_back(spec) else ""


def is_chip(spec: Declaration) -> bool:
    """Whether the calibration serves the declared design, with as many outputs as one pass needs."""
    if spec.drawing is None:
        return False
    try:
        chip = _chip(spec)
        chip.check(spec)
    except (ArgumentError, IncompatibleError):
        return False
    from blackprop.twins.chips._ways import closed  # noqa: PLC0415  # used by chips alone

    # Other designs and readouts are served too, but have not been tried in training yet.
    return closed(chip.model.chip, spec) and spec.d_out >= SERVED * chip.model.chip.modes


def chip_queries(spec: Declaration) -> Ledger:
    """The programmings and rows of the calibration, with their lab time."""
    chip = _chip(spec)
    found = Ledger()
    found.programmings[Purpose.CALIBRATE] = chip.programmings
    found.rows[Purpose.CALIBRATE] = chip.total_rows
    found.costs = spec.costs(found.spent)
    return found


def chip_price(method: Method, device: Measurable, batch_size: int) -> Price:
    """A calibration on invented readings would be fitted in vain: its queries are counted."""
    del method
    spec, step = device.declaration, Ledger()
    step.rows[Purpose.FORWARD], step.programmings[Purpose.FORWARD] = batch_size, 1
    step.costs = spec.costs(step.spent)
    return Price(Ledger.sum([step, chip_queries(spec)]), step)


def _chip(spec: Declaration) -> twins.CalibratedChip:
    assert isinstance(spec.drawing, Device)
    return twins.CalibratedChip(spec.drawing)
