"""An instrument of PyMeasure as a device: its properties are θ, inputs and outputs."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from typing import Any, Unpack

import numpy as np
import torch
from torch import Tensor

from blackprop.core._theta import ThetaSpec
from blackprop.errors import ArgumentError, DeviceError, ReadingError
from blackprop.lab.instruments._instrument import Instrument, InstrumentOptions, Numbers


def from_pymeasure(
    instrument: Any,
    *,
    parameters: Sequence[str],
    inputs: Sequence[str],
    outputs: Sequence[str],
    initial: Callable[[torch.Generator], Tensor] | None = None,
    theta_low: float | Tensor | None = None,
    theta_high: float | Tensor | None = None,
    low: Numbers = -float("inf"),
    high: Numbers = float("inf"),
    **bench: Unpack[InstrumentOptions],
) -> Instrument:
    """Make a device of the properties of an instrument of PyMeasure, row by row.

    To program writes the properties of θ; a row writes those of the inputs and reads those of the outputs.

    **Costs** a message of the instrument for each property that is written or read, and the waits `settle` and
    `settle_row`, which are declared.

    **Arguments:**

    - `instrument`: an instrument of PyMeasure, or a list of several; it may be any object with such properties.
    - `parameters`, `inputs`, `outputs`: names of properties, with dots for channels (`"ch_1.voltage"`); of several
      instruments, with the place in the list first (`"0.voltage"`).
    - `theta_low`, `theta_high`: the limits of θ. `low`, `high`: those of the inputs, in their units.
    - `initial`: as in `ThetaSpec`. The others are those of `lab.VisaDevice`, such as `settle` (s).

    `close()` calls the `shutdown()` of the instruments, which brings their outputs to a safe state.

    **Raises** `ArgumentError` for a name that is not a property, or that is both a parameter and an input,
    `UnreachableError` if an instrument cannot be
    reached, `InDoubtError` if it stops to answer after a write, and `DeviceError` for its other errors. Its setting is
    then written again before the next row.

    ```python
    supply = Supply("GPIB::4")
    device = from_pymeasure(supply, parameters=["ch_1.voltage"], inputs=["ch_2.voltage"], outputs=["current"])
    ```
    """
    several = list(instrument) if isinstance(instrument, list | tuple) else None
    groups = {"parameters": parameters, "inputs": inputs, "outputs": outputs}
    found: list[list[tuple[Any, str]]] = []
    for name, given in groups.items():
        if isinstance(given, str) or not given or len(set(given)) < len(given):
            raise ArgumentError(f"`from_pymeasure({name}=...)` takes a list of different names, got {given!r}")
        found.append([_place(instrument, several, each, name) for each in given])
    if both := [name for name in parameters if name in set(inputs)]:
        raise ArgumentError(f"`from_pymeasure`: {both[0]!r} is a parameter and an input: a row would replace θ")
    theta = ThetaSpec(len(parameters), initial, theta_low, theta_high)
    owned = several if several is not None else [instrument]
    return _Properties(owned, found, len(inputs), len(outputs), theta, low=low, high=high, **bench)


class _Properties(Instrument):
    def __init__(
        self,
        owned: list[Any],
        places: list[list[tuple[Any, str]]],
        d_in: int,
        d_out: int,
        theta: ThetaSpec,
        **bench: Any,
    ) -> None:
        super().__init__(d_in, d_out, theta, **bench)
        self._owned = owned
        self._theta, self._inputs, self._outputs = places
        with contextlib.suppress(ImportError):  # an extra
            away: type[Exception] = import_module("pyvisa.errors").VisaIOError
            self.away: tuple[type[Exception], ...] = (*self.away, away)

    def _set(self, values: list[float], /) -> None:
        self._write(self._theta, values)

    def _drive(self, values: list[float], /) -> None:
        self._write(self._inputs, values)

    def _sense(self) -> list[float]:
        found: list[float] = []
        for owner, name in self._outputs:
            with self._named(name):
                got = getattr(owner, name)
            found.append(_number(got, name))
        return found

    def _write(self, places: list[tuple[Any, str]], values: list[float]) -> None:
        for (owner, name), value in zip(places, values, strict=True):
            with self._named(name):
                setattr(owner, name, value)

    @contextlib.contextmanager
    def _named(self, name: str) -> Iterator[None]:
        """Add the name of the property to an error of its driver; a silence keeps its type."""
        try:
            yield
        except self.away:
            raise
        except Exception as error:
            raise DeviceError(f"{self}: property {name!r} failed: {type(error).__name__}: {error}") from error

    def close(self) -> None:
        """Shut the instruments down."""
        for each in self._owned:
            if callable(shutdown := getattr(each, "shutdown", None)):
                shutdown()


def _place(instrument: Any, several: list[Any] | None, name: str, group: str) -> tuple[Any, str]:
    """The object that owns a property, and its name there. The property itself is not read."""
    *path, last = name.split(".")
    owner = instrument
    try:
        if several is not None:
            owner = several[int(path.pop(0))]
        for part in path:
            owner = getattr(owner, part)
    except (ValueError, IndexError, AttributeError) as error:
        raise ArgumentError(
            f"`from_pymeasure({group}=...)`: {name!r} does not lead to an instrument: {error}"
        ) from error
    if isinstance(owner, type):
        raise ArgumentError(
            f"`from_pymeasure(instrument)` takes an instrument, got the class {owner.__name__}: open one"
        )
    kind = getattr(type(owner), last, None)
    if (kind is None and last not in vars(owner)) or callable(kind):  # writing to a method would replace it
        raise ArgumentError(f"`from_pymeasure({group}=...)`: {type(owner).__name__} has no property {last!r}")
    if isinstance(kind, property) and (kind.fget if group == "outputs" else kind.fset) is None:
        verb = "read" if group == "outputs" else "set"
        raise ArgumentError(f"`from_pymeasure({group}=...)`: {last!r} of {type(owner).__name__} cannot be {verb}")
    return owner, last


def _number(got: Any, name: str) -> float:
    array = np.asarray(got)
    if array.dtype.kind not in "buif" or array.size != 1:
        raise ReadingError(f"property {name!r} returned {got!r}, expected one real number")
    return float(array.item())
