"""A device of instruments that speak SCPI, by PyVISA."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Unpack

import torch
from torch import Tensor

from blackprop._extras import install
from blackprop.core._theta import ThetaSpec
from blackprop.errors import ArgumentError, DeviceError, ReadingError, UnreachableError
from blackprop.lab.instruments._instrument import Instrument, InstrumentOptions
from blackprop.lab.instruments._scpi import Channels, Readings, no_error, numbers, numbers_of_block
from blackprop.lab.instruments._scpi_lines import Resource
from blackprop.lab.instruments._scpi_session import Session

ERRORS = 100  # no error queue is longer
Open = Callable[[], Resource]


class VisaDevice(Instrument):
    """Instruments at one VISA address: θ and rows are written to channels, outputs are asked for, one row at a time.

    **Arguments:**

    - `resource`: an address, which is opened by `manager` (default PyVISA's) with commands and answers that end in a
      newline; or a function without arguments that opens a resource; or an opened resource, PyVISA's or an object of
      yours. An address or a function is opened again after a failure, and closed by `close()`; an opened resource
      stays open.
    - `theta`, `inputs`: `Channels`. `outputs`: `Readings`.
    - `trigger` (default None): a command sent after a row is driven and settled. If it ends in `?`, as `"INIT;*OPC?"`,
      its answer is awaited.
    - `check`: the question for the instrument's error queue, as `"SYST:ERR?"`, sent after a programming and after the
      last row of a query. Answers that do not start with 0 raise `DeviceError`.
    - `timeout` (s, default: the resource's own if it is PyVISA's, else 10): the longest wait for an answer.
    - `acknowledgement` (default None): the line with which the instrument answers each command, as `"OK"` or `""`.
    - `marker` (default `"*IDN?"`): a question whose answer is always the same text, and not a number. On raw sockets,
      serial lines and objects of yours, late answers look like the next ones. There the marker is sent after every
      question, and a reading is accepted only if the marker's answer follows it: one more question a reading. It is not
      sent on GPIB, USB-TMC, VXI-11 and HiSLIP. With None, an object of yours must separate answers itself; a raw socket
      or serial line is emptied before each question, which cannot find every late answer.
    - `initial`: as in `ThetaSpec`. The others as in `Instrument`.

    SCPI's 9.91E37 is read as NaN and ±9.9E37, an overload, as infinity.

    **Raises**, besides those of `Instrument`: `ReadingError` for an answer that is not the numbers asked for, or may
    belong to another question; `UnreachableError` where the link cannot be opened or brought back in step, before
    anything is written; `InDoubtError` for a failure after that.
    """

    def __init__(
        self,
        resource: Resource | Open | str,
        *,
        theta: Channels,
        inputs: Channels,
        outputs: Readings,
        trigger: str | None = None,
        check: str | None = None,
        marker: str | None = "*IDN?",
        acknowledgement: str | None = None,
        timeout: float | None = None,
        manager: Any = None,
        initial: Callable[[torch.Generator], Tensor] | None = None,
        **bench: Unpack[InstrumentOptions],
    ) -> None:
        try:
            import pyvisa  # noqa: PLC0415  # an extra
        except ImportError as error:
            raise ArgumentError(f"`VisaDevice` needs the extra `lab`: {install('lab')}") from error
        if timeout is not None and not 0 < timeout < math.inf:
            raise ArgumentError(f"`VisaDevice(timeout=...)` takes seconds, got {timeout}")
        if marker is not None and not marker.strip():
            raise ArgumentError("`VisaDevice(marker=...)` takes a question as '*IDN?', or None, got an empty one")
        low, high = (None if math.isinf(limit) else limit for limit in (theta.low, theta.high))
        spec = ThetaSpec(len(theta.channels), initial, low, high)
        super().__init__(len(inputs.channels), len(outputs.channels), spec, low=inputs.low, high=inputs.high, **bench)
        self.away: tuple[type[Exception], ...] = (*self.away, pyvisa.errors.VisaIOError)
        self._theta, self._inputs, self._outputs, self._questions = theta, inputs, outputs, outputs.questions()
        self._trigger, self._check, self._timeout = trigger, check, timeout
        self.address = resource if isinstance(resource, str) else ""
        self._open = self._opener(resource, manager or pyvisa.ResourceManager)
        link = self._open() if self._open is not None else resource
        self.address: str = self.address or getattr(link, "resource_name", "")
        self._session = Session(
            self._timed(link),
            self._open,
            name=str(self),
            is_framed=lambda link: _is_framed(link, marker),
            marker=marker,
            acknowledgement=acknowledgement,
            timeout=timeout if timeout is not None else _own_timeout(link),
            sets_timeout=timeout is not None or isinstance(link, pyvisa.resources.Resource),
        )
        if outputs.dtype is not None and not hasattr(link, "read_raw"):
            raise ArgumentError(
                f"`VisaDevice(outputs=Readings(dtype=...))` needs a resource with `read_raw`, got {link}"
            )

    @property
    def resource(self) -> Any:
        """The link in use. Assign one that you have opened anew after yours was lost."""
        return self._session.resource

    @resource.setter
    def resource(self, link: Resource) -> None:
        self._session.attach(self._timed(link))

    def close(self) -> None:
        if self._open is not None:
            self._session.close()

    def _opener(self, resource: Resource | Open | str, manager: Any) -> Open | None:
        if isinstance(resource, str):
            return lambda: self._timed(_opened(resource, manager, self._timeout))
        if callable(resource) and not hasattr(resource, "query"):
            return lambda: self._timed(_called(resource))
        return None

    def _timed(self, link: Any) -> Any:
        if self._timeout is not None:
            link.timeout = 1000 * self._timeout  # ms
        return link

    def _connect(self) -> None:
        self._session.connect()

    def _set(self, values: list[float], /) -> None:
        for command in self._theta.commands(values):
            self._session.write(command)

    def _drive(self, values: list[float], /) -> None:
        for command in self._inputs.commands(values):
            self._session.write(command)

    def _sense(self) -> list[float]:
        if self._trigger is not None and self._trigger.endswith("?"):
            self._session.ask(self._trigger)
        elif self._trigger is not None:
            self._session.write(self._trigger)
        return [value for question, size in self._questions for value in self._numbers(question, size)]

    def _verify(self) -> None:
        if self._check is None:
            return
        errors: list[str] = []
        while len(errors) < ERRORS and not no_error(answer := self._session.ask(self._check).strip()):
            errors.append(answer)
        if errors:
            raise DeviceError(f"{self} reports {'; '.join(errors)}")

    def _numbers(self, question: str, size: int) -> list[float]:
        if self._outputs.dtype is None:
            answer = self._session.ask(question)
            values, expected = numbers(answer), f"{size} numbers with commas between them"
        else:
            answer = self._session.ask_block(question)
            values, expected = numbers_of_block(answer, self._outputs.dtype), f"{size} of {self._outputs.dtype}"
        if values is None or len(values) != size:
            self._session.discard()
            expected = "a number" if size == 1 and isinstance(answer, str) else expected
            raise ReadingError(f"{self} answered {question!r} by {answer!r:.200}, expected {expected}")
        return values

    def __repr__(self) -> str:
        return super().__repr__().replace("(", f"({self.address}: " if self.address else "(", 1)


def _is_framed(link: Any, marker: str | None) -> bool:
    """Whether the link itself keeps answers and questions apart."""
    from pyvisa import resources  # noqa: PLC0415  # an extra

    if isinstance(link, resources.Resource):
        return isinstance(link, (resources.GPIBInstrument, resources.USBInstrument, resources.TCPIPInstrument))
    return marker is None


def _own_timeout(link: Any) -> float | None:
    """The seconds that PyVISA waits for an answer; None where that is for ever, or the link is not PyVISA's."""
    from pyvisa import resources  # noqa: PLC0415  # an extra

    milliseconds = link.timeout if isinstance(link, resources.Resource) else math.inf
    return milliseconds / 1000 if 0 < milliseconds < math.inf else None


def _called(opens: Open) -> Resource:
    try:
        return opens()
    except Exception as error:
        raise UnreachableError(f"cannot open the link: {type(error).__name__}: {error}") from error


def _opened(address: str, manager: Any, timeout: float | None) -> Any:
    """An instrument whose commands and answers end in a newline, as IEEE 488.2 says."""
    opening = {} if timeout is None else {"open_timeout": round(1000 * timeout)}
    try:
        manager = manager() if callable(manager) else manager
        resource = manager.open_resource(address, **opening)
    except Exception as error:
        raise UnreachableError(f"cannot open {address}: {type(error).__name__}: {error}") from error
    resource.read_termination = resource.write_termination = "\n"
    return resource
