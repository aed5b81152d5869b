"""A device of QCoDeS parameters, of one instrument or of several."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Unpack

import numpy as np
import torch
from torch import Tensor

from blackprop._extras import install
from blackprop.core._theta import ThetaSpec
from blackprop.errors import ArgumentError, ReadingError
from blackprop.lab.instruments._instrument import Instrument, InstrumentOptions

if TYPE_CHECKING:
    from qcodes.parameters import ParameterBase


class QcodesDevice(Instrument):
    """Parameters of QCoDeS instruments as θ, as inputs and as outputs; they may belong to several instruments.

    **Arguments:**

    - `theta`, `inputs`: parameters that can be set to a number, one for each element of θ and each entry of a row.
    - `outputs`: parameters that can be read, each a number or an array of declared shape (`ParameterWithSetpoints`,
      `ArrayParameter`), whose elements are outputs in row-major order.
    - `initial`: as in `ThetaSpec`. The others as in `Instrument`.

    The limits of θ and of rows are those of the parameters' `Numbers` validators, if any. A parameter's own `step` and
    `inter_delay` continue to ramp it.

    `close()` leaves the instruments open: they belong to the caller.
    """

    def __init__(
        self,
        *,
        theta: Sequence[ParameterBase],
        inputs: Sequence[ParameterBase],
        outputs: Sequence[ParameterBase],
        initial: Callable[[torch.Generator], Tensor] | None = None,
        **bench: Unpack[InstrumentOptions],
    ) -> None:
        try:
            import pyvisa  # noqa: PLC0415  # extras, this and the next
            import qcodes  # noqa: F401, PLC0415
        except ImportError as error:
            raise ArgumentError(f"`QcodesDevice` needs the extra `lab`: {install('lab')}") from error
        for name, parameters in (("theta", theta), ("inputs", inputs), ("outputs", outputs)):
            _check(name, parameters, "gettable" if name == "outputs" else "settable")
        low, high = (torch.tensor(limits, dtype=torch.float64) for limits in _limits(theta))
        limited = bool(low.isfinite().any() or high.isfinite().any())
        spec = ThetaSpec(len(theta), initial, low, high) if limited else ThetaSpec(len(theta), initial)
        row_low, row_high = _limits(inputs)
        self._sizes = [_size(parameter) for parameter in outputs]
        super().__init__(len(inputs), sum(self._sizes), spec, low=row_low, high=row_high, **bench)
        self.away: tuple[type[Exception], ...] = (*self.away, pyvisa.errors.VisaIOError)
        self._theta, self._inputs, self._outputs = tuple(theta), tuple(inputs), tuple(outputs)

    def _set(self, values: list[float], /) -> None:
        _write(self._theta, values)

    def _drive(self, values: list[float], /) -> None:
        _write(self._inputs, values)

    def _sense(self) -> list[float]:
        return [y for parameter, size in zip(self._outputs, self._sizes, strict=True) for y in _read(parameter, size)]


def _check(name: str, parameters: Sequence[ParameterBase], ability: str) -> None:
    if not parameters:
        raise ArgumentError(f"`QcodesDevice({name}=...)` takes at least one parameter")
    if len({id(parameter) for parameter in parameters}) < len(parameters):
        raise ArgumentError(f"`QcodesDevice({name}=...)` holds a parameter twice")
    for parameter in parameters:
        if not getattr(parameter, ability, False):
            raise ArgumentError(f"`QcodesDevice({name}=...)` takes {ability} parameters, got {parameter!r}")


def _limits(parameters: Sequence[ParameterBase]) -> tuple[list[float], list[float]]:
    """The tightest limits that each parameter's validators set."""
    from qcodes.validators import Anything, Numbers  # noqa: PLC0415  # an extra

    lows, highs = [], []
    for parameter in parameters:
        low, high = -math.inf, math.inf
        for validator in parameter.validators:
            if isinstance(validator, Numbers):
                low, high = max(low, validator.min_value), min(high, validator.max_value)
            elif not isinstance(validator, Anything):
                raise ArgumentError(
                    f"`{parameter}` takes {validator}; θ and inputs are parameters that take `Numbers`, or have no "
                    "validator"
                )
        lows.append(low)
        highs.append(high)
    return lows, highs


def _size(parameter: ParameterBase) -> int:
    """How many outputs a parameter stands for."""
    from qcodes.parameters import ArrayParameter, MultiParameter  # noqa: PLC0415  # an extra
    from qcodes.validators import Arrays  # noqa: PLC0415

    if isinstance(parameter, MultiParameter):
        raise ArgumentError(f"`QcodesDevice(outputs=...)` takes numbers and arrays; `{parameter}` is several of them")
    if isinstance(parameter, ArrayParameter):
        return math.prod(parameter.shape)
    shapes = [validator.shape for validator in parameter.validators if isinstance(validator, Arrays)]
    if None in shapes:
        raise ArgumentError(f"`{parameter}` is an array of no declared shape: give its `Arrays` validator one")
    return math.prod(shapes[0]) if shapes and shapes[0] is not None else 1


def _write(parameters: Sequence[ParameterBase], values: list[float]) -> None:
    for parameter, value in zip(parameters, values, strict=True):
        parameter.set(value)


def _read(parameter: ParameterBase, size: int) -> list[float]:
    got = np.asarray(parameter.get())
    if got.dtype.kind not in "buif":
        raise ReadingError(f"`{parameter}` returned {got!r}, expected {size} real numbers")
    if got.size != size:
        raise ReadingError(f"`{parameter}` returned {got.size} numbers, expected {size}")
    return got.astype(np.float64).ravel().tolist()
