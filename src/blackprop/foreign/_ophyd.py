"""Signals of ophyd or ophyd-async as a device."""

from __future__ import annotations

import asyncio
import inspect
import threading
import weakref
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Unpack

import numpy as np
import torch
from torch import Tensor

from blackprop.core._theta import ThetaSpec
from blackprop.errors import ArgumentError, ReadingError, UnreachableError
from blackprop.lab.instruments._instrument import Instrument, InstrumentOptions, Numbers


def from_ophyd(
    *,
    parameters: Sequence[Any],
    inputs: Sequence[Any],
    outputs: Sequence[Any],
    initial: Callable[[torch.Generator], Tensor] | None = None,
    theta_low: float | Tensor | None = None,
    theta_high: float | Tensor | None = None,
    low: Numbers = -float("inf"),
    high: Numbers = float("inf"),
    timeout: float = 10.0,
    loop: asyncio.AbstractEventLoop | None = None,
    **bench: Unpack[InstrumentOptions],
) -> Instrument:
    """Make a device of signals and motors of ophyd or of ophyd-async, row by row.

    To program sets the objects of θ side by side, and waits until all have arrived; a row does so with the inputs, then
    triggers the outputs that can be triggered, and reads them.

    **Costs** a move of the slowest object for each programming and each row, and the waits `settle` and `settle_row`,
    which are declared. Declare the time of the moves by `cost`.

    **Arguments:**

    - `parameters`, `inputs`: objects with `set`: signals, motors.
    - `outputs`: objects with `get_value` (ophyd-async) or `get` (ophyd), each a number or an array of fixed size.
    - `theta_low`, `theta_high`: the limits of θ. `low`, `high`: those of the inputs, in their units.
    - `timeout` (s, default 10): for one move or one reading.
    - `loop` (default None): the running event loop of the objects of ophyd-async, such as that of a `RunEngine` of
      Bluesky. None: they are connected in a loop of this device, in a thread of its own.
    - `initial`: as in `ThetaSpec`. The others are those of `lab.VisaDevice`.

    `close()` ends the device's own loop. The objects belong to the caller.

    **Raises** `ArgumentError` for an object that cannot be set or read, `UnreachableError` if one cannot be connected,
    `InDoubtError` if one does not arrive in time after a write, and `DeviceError` for other failures.

    ```python
    device = from_ophyd(parameters=[stage.x, stage.y], inputs=[laser.power], outputs=[diode.value])
    ```

    Source: the protocols of Bluesky (`Movable`, `Readable`).
    """
    for name, given in (("parameters", parameters), ("inputs", inputs), ("outputs", outputs)):
        _check_objects(name, given)
    if both := [_named(each) for each in parameters if any(each is other for other in inputs)]:
        raise ArgumentError(f"`from_ophyd`: {both[0]} is a parameter and an input: a row would replace θ")
    if not timeout > 0:
        raise ArgumentError(f"`from_ophyd(timeout=...)` must be positive, got {timeout}")
    if loop is not None and not loop.is_running():
        raise ArgumentError("`from_ophyd(loop=...)` takes a loop that runs in another thread; None makes one")
    line = _Line(loop, timeout)
    try:
        for each in {id(each): each for each in (*parameters, *inputs, *outputs)}.values():
            line.connect(each)
        sizes = [_size(line, each) for each in outputs]
    except BaseException:
        line.close()
        raise
    theta = ThetaSpec(len(parameters), initial, theta_low, theta_high)
    return _Signals(line, parameters, inputs, outputs, sizes, theta, low=low, high=high, **bench)


class _Signals(Instrument):
    def __init__(
        self,
        line: _Line,
        parameters: Sequence[Any],
        inputs: Sequence[Any],
        outputs: Sequence[Any],
        sizes: list[int],
        theta: ThetaSpec,
        **bench: Any,
    ) -> None:
        super().__init__(len(inputs), sum(sizes), theta, **bench)
        self._line, self._sizes = line, sizes
        self._theta, self._inputs, self._outputs = list(parameters), list(inputs), list(outputs)

    def _set(self, values: list[float], /) -> None:
        self._line.set_all(self._theta, values)

    def _drive(self, values: list[float], /) -> None:
        self._line.set_all(self._inputs, values)

    def _sense(self) -> list[float]:
        found: list[float] = []
        for each, size in zip(self._outputs, self._sizes, strict=True):
            self._line.trigger(each)
            got = np.asarray(self._line.value(each))
            if got.dtype.kind not in "buif" or got.size != size:
                raise ReadingError(f"{_named(each)} returned {got!r}, expected {size} real numbers")
            found += got.astype(np.float64).ravel().tolist()
        return found

    def close(self) -> None:
        """End the loop of this device, if it has its own."""
        self._line.close()


class _Line:
    """Calls of objects that answer at once, by a status, or by a coroutine."""

    def __init__(self, loop: asyncio.AbstractEventLoop | None, timeout: float) -> None:
        self._given, self._timeout = loop, timeout
        self._loop = loop
        self._end: Callable[[], Any] = lambda: None

    def connect(self, each: Any) -> None:
        """Connect an object of ophyd-async in this loop, or wait until one of ophyd is connected."""
        try:
            if inspect.iscoroutinefunction(getattr(each, "connect", None)):
                if self._given is None:
                    self._run(each.connect(timeout=self._timeout))
            elif callable(wait := getattr(each, "wait_for_connection", None)):
                wait(timeout=self._timeout)
        except Exception as error:
            words = str(error) or f"no answer within {self._timeout:g} s"
            raise UnreachableError(f"{_named(each)} cannot be connected: {words}"[:500]) from error

    def set_all(self, objects: Sequence[Any], values: list[float]) -> None:
        if any(map(_is_async, objects)):
            self._run(self._all(objects, values))
            return
        for status in [each.set(value) for each, value in zip(objects, values, strict=True)]:
            _arrived(status, self._timeout)

    async def _all(self, objects: Sequence[Any], values: list[float]) -> None:
        statuses = [each.set(value) for each, value in zip(objects, values, strict=True)]
        for status in statuses:
            if inspect.isawaitable(status):
                try:
                    await asyncio.wait_for(_done(status), self._timeout)
                except TimeoutError as error:
                    raise TimeoutError(f"not done within {self._timeout:g} s") from error
            else:
                await asyncio.to_thread(_arrived, status, self._timeout)

    def trigger(self, each: Any) -> None:
        if not callable(trigger := getattr(each, "trigger", None)):
            return
        if _is_async(each):
            self._run(_triggered(trigger))
        else:
            _arrived(trigger(), self._timeout)

    def value(self, each: Any) -> Any:
        return self._run(each.get_value()) if _is_async(each) else each.get()

    def close(self) -> None:
        self._end()

    def _run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        if self._loop is None or self._loop.is_closed():
            loop = asyncio.new_event_loop()
            thread = threading.Thread(target=loop.run_forever, name="blackprop-ophyd", daemon=True)
            thread.start()
            self._loop, self._end = loop, weakref.finalize(self, _stop, loop, thread)
        waiting = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        try:
            return waiting.result(2 * self._timeout)
        except TimeoutError:
            waiting.cancel()
            raise


async def _done(status: Any) -> Any:
    return await status


async def _triggered(trigger: Callable[[], Any]) -> None:
    status = trigger()
    if inspect.isawaitable(status):
        await status


def _arrived(status: Any, timeout: float) -> None:
    """Wait for a status of ophyd. Its own errors of time are not those of Python in all versions."""
    if not callable(wait := getattr(status, "wait", None)):
        return
    try:
        wait(timeout=timeout)
    except Exception as error:
        if "Timeout" in type(error).__name__:
            raise TimeoutError(str(error) or f"not done within {timeout:g} s") from error
        raise


def _is_async(each: Any) -> bool:
    return inspect.iscoroutinefunction(getattr(each, "get_value", None)) or inspect.iscoroutinefunction(
        getattr(each, "connect", None)
    )


def _check_objects(name: str, given: Any) -> None:
    if not isinstance(given, Sequence) or not given or len({id(each) for each in given}) < len(given):
        raise ArgumentError(f"`from_ophyd({name}=...)` takes a list of different objects, got {given!r}")
    able = ("get_value", "get") if name == "outputs" else ("set",)
    for each in given:
        if isinstance(each, type) or not any(callable(getattr(each, verb, None)) for verb in able):
            raise ArgumentError(f"`from_ophyd({name}=...)` takes objects with `{able[0]}`, got {each!r}")


def _size(line: _Line, each: Any) -> int:
    """The number of values of an output. A device with several signals returns a named tuple of them."""
    got = line.value(each)
    if hasattr(got, "_fields"):
        raise ArgumentError(
            f"`from_ophyd(outputs=...)`: {_named(each)} has several signals: pass those to read, among "
            f"{', '.join(got._fields)}"
        )
    return np.asarray(got).size


def _named(each: Any) -> str:
    return str(getattr(each, "name", "") or type(each).__name__)


def _stop(loop: asyncio.AbstractEventLoop, thread: threading.Thread) -> None:
    loop.call_soon_threadsafe(loop.stop)
    thread.join(2.0)
    if not thread.is_alive():
        loop.close()
