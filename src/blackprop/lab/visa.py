"""A device of instruments that speak SCPI, by PyVISA."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Protocol, Unpack

import torch
from torch import Tensor

from blackprop.declaration import ThetaSpec
from blackprop.errors import ArgumentError, DeviceError, ReadingError, UnreachableError
from blackprop.lab.instrument import Bench, Instrument
from blackprop.lab.scpi import Channels, Readings, no_error, number

ERRORS = 100  # no error queue is longer


class Resource(Protocol):
    """What is needed of an opened PyVISA resource."""

    def write(self, message: str, /) -> Any: ...
    def query(self, message: str, /) -> str: ...


class VisaDevice(Instrument):
    """Instruments at one VISA address: θ and rows are written to channels, outputs are asked for, one row at a time.

    **Arguments:** `resource`, an opened resource (anything with `write` and `query`), or the address of one, which is
    opened by `manager` (PyVISA's default where None), with commands and answers that end in a newline, and closed by
    `close()`; `theta` and `inputs`, `Channels`; `outputs`, `Readings`; `trigger`, a command sent once a row is driven
    and settled, waited for if it ends in `?`, as `"INIT;*OPC?"`; `check`, the question for the instrument's error
    queue, as `"SYST:ERR?"`, asked after a programming and after the last row of a query, whose answers raise
    `DeviceError` unless they start with 0; `timeout`, the seconds after which an answer is given up; `initial`, as in
    `ThetaSpec`; the rest as in `Instrument`.

    SCPI's 9.91E37 is read as NaN and ±9.9E37, an overload, as infinity. After a time-out or a garbled answer the
    instrument is cleared, so that a late answer is not taken for the next one.
    """

    def __init__(
        self,
        resource: Resource | str,
        *,
        theta: Channels,
        inputs: Channels,
        outputs: Readings,
        trigger: str | None = None,
        check: str | None = None,
        timeout: float | None = None,
        manager: Any = None,
        initial: Callable[[torch.Generator], Tensor] | None = None,
        **bench: Unpack[Bench],
    ) -> None:
        try:
            import pyvisa  # noqa: PLC0415  # an extra
        except ImportError as error:
            raise ArgumentError("`VisaDevice` needs the extra `lab`: pip install 'blackprop[lab]'") from error
        if timeout is not None and not timeout > 0:
            raise ArgumentError(f"`VisaDevice(timeout=...)` takes seconds, got {timeout}")
        low, high = (None if math.isinf(limit) else limit for limit in (theta.low, theta.high))
        spec = ThetaSpec(len(theta.channels), initial, low, high)
        super().__init__(len(inputs.channels), len(outputs.channels), spec, low=inputs.low, high=inputs.high, **bench)
        self.away = (*self.away, pyvisa.errors.VisaIOError)
        self._theta, self._inputs, self._questions = theta, inputs, outputs.questions()
        self._trigger, self._check = trigger, check
        self._opens = isinstance(resource, str)
        self.address = resource if isinstance(resource, str) else getattr(resource, "resource_name", "")
        self.resource: Any = resource
        if isinstance(resource, str):
            self.resource = _opened(resource, manager or pyvisa.ResourceManager, timeout)
        if not (hasattr(self.resource, "write") and hasattr(self.resource, "query")):
            raise ArgumentError(f"`VisaDevice(resource)` must have `write` and `query`, got {self.resource!r}")
        if timeout is not None:
            self.resource.timeout = 1000 * timeout  # ms

    def close(self) -> None:
        if self._opens:
            self.resource.close()

    def _set(self, values: list[float], /) -> None:
        for command in self._theta.commands(values):
            self.resource.write(command)

    def _drive(self, values: list[float], /) -> None:
        for command in self._inputs.commands(values):
            self.resource.write(command)

    def _sense(self) -> list[float]:
        if self._trigger is not None and self._trigger.endswith("?"):
            self._ask(self._trigger)
        elif self._trigger is not None:
            self.resource.write(self._trigger)
        return [value for question, size in self._questions for value in self._numbers(question, size)]

    def _verify(self) -> None:
        if self._check is None:
            return
        errors: list[str] = []
        while len(errors) < ERRORS and not no_error(answer := self._ask(self._check).strip()):
            errors.append(answer)
        if errors:
            raise DeviceError(f"{self} reports {'; '.join(errors)}")

    def _numbers(self, question: str, size: int) -> list[float]:
        answer = self._ask(question)
        try:
            values = [float(word) for word in answer.split(",")]
        except ValueError:
            values = []
        if len(values) != size:
            self._clear()
            expected = "a number" if size == 1 else f"{size} numbers with commas between them"
            raise ReadingError(f"{self} answered {question!r} by {answer!r}, expected {expected}")
        return [number(value) for value in values]

    def _ask(self, question: str) -> str:
        try:
            return self.resource.query(question)
        except UnicodeDecodeError as error:
            self._clear()
            raise ReadingError(f"{self} answered {question!r} by {error.object!r}, which is no text") from error
        except Exception:
            self._clear()
            raise

    def _clear(self) -> None:
        with suppress(Exception):  # not every link can, and what is told is the fault that led here
            self.resource.clear()

    def __repr__(self) -> str:
        return super().__repr__().replace("(", f"({self.address}: " if self.address else "(", 1)


def _opened(address: str, manager: Any, timeout: float | None) -> Any:
    """An instrument whose commands and answers end in a newline, as IEEE 488.2 says."""
    patience = {} if timeout is None else {"open_timeout": round(1000 * timeout)}
    try:
        manager = manager() if callable(manager) else manager
        resource = manager.open_resource(address, **patience)
    except Exception as error:
        raise UnreachableError(f"cannot open {address}: {type(error).__name__}: {error}") from error
    resource.read_termination = resource.write_termination = "\n"
    return resource
