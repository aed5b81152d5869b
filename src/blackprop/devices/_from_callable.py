"""A device from a plain function of rows and a setting."""

from __future__ import annotations

import inspect
import pickle
from collections.abc import Callable, Sequence
from concurrent.futures import BrokenExecutor, Executor, Future, ProcessPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import Tensor

from blackprop.core._declaration import Cost, Coupling
from blackprop.core._query import Query
from blackprop.core._theta import ThetaSpec
from blackprop.core.capabilities._capability import Shape
from blackprop.devices._base import Device
from blackprop.devices._coroutines import Loop
from blackprop.errors import ArgumentError, DeviceError, ReadingError

Call = tuple[Any, Any]


def from_callable(
    fn: Callable[[Any, Any], Any],
    *,
    in_shape: int | Shape,
    out_shape: int | Shape,
    theta_size: int,
    initial: Callable[[torch.Generator], Tensor] | None = None,
    low: float | Tensor | None = None,
    high: float | Tensor | None = None,
    period: float | None = None,
    harmonics: int | None = None,
    linear: bool = False,
    coupling: Coupling = Coupling.NONE,
    cost: Cost | None = None,
    noise: float = 0.0,
    x_low: float | None = None,
    x_high: float | None = None,
    takes: Callable[[Tensor], Any] | None = None,
    per_row: bool = False,
    pool: Executor | None = None,
) -> Device:
    """Make the device `y = fn(x, theta)`: rows `(rows, *in_shape)` and a setting `(theta_size,)` in, `(rows,
    *out_shape)` out.

    `fn` may be any program: a foreign simulator, an instrument, a process. It is called without autograd, once for each
    query. It may return a tensor, a NumPy array, a list or a number, of any real dtype. It may also be a coroutine
    function, whose calls of one round then run concurrently.

    **Arguments:**

    - `takes` (default None, tensors as they are): converts the arguments of `fn` from tensors on the CPU:
      `torch.Tensor.numpy` for NumPy arrays, `torch.Tensor.tolist` for lists, `lambda t: t.double().numpy()` for
      float64.
    - `per_row` (default False): True if `fn` takes one row `(*in_shape)` and returns one reading `(*out_shape)`.
    - `pool` (default None): a `concurrent.futures.Executor` of threads or processes that runs the calls of a round in
      parallel. Processes need a `fn` that can be pickled, at the top level of a module, and are faster with
      `takes=torch.Tensor.numpy`.
    - The others are those of `ThetaSpec` and `Device`.

    **Raises** `ReadingError` for an unusable return value.

    >>> import torch, blackprop as bp
    >>> device = bp.devices.from_callable(lambda x, theta: torch.tanh(x * theta), in_shape=4, out_shape=4, theta_size=4)
    >>> bp.PhysicalLayer(device)(torch.zeros(3, 4)).shape
    torch.Size([3, 4])

    >>> import numpy as np
    >>> def simulate(row, volts):  # one row, NumPy arrays, a list
    ...     return [float(np.sin(row @ volts))]
    >>> device = bp.devices.from_callable(
    ...     simulate, in_shape=4, out_shape=1, theta_size=4, takes=torch.Tensor.numpy, per_row=True
    ... )
    >>> bp.PhysicalLayer(device)(torch.zeros(3, 4)).shape
    torch.Size([3, 1])
    """
    theta = ThetaSpec(theta_size, initial, low, high, period, harmonics)
    declared = {"linear": linear, "coupling": coupling, "cost": cost, "noise": noise, "x_low": x_low, "x_high": x_high}
    return _Callable(fn, takes, per_row, pool, in_shape, out_shape, theta, **declared)


class _Callable(Device):
    def __init__(
        self,
        fn: Callable[[Any, Any], Any],
        takes: Callable[[Tensor], Any] | None,
        per_row: bool,
        pool: Executor | None,
        in_shape: int | Shape,
        out_shape: int | Shape,
        theta: ThetaSpec,
        **declared: Any,
    ) -> None:
        super().__init__(in_shape, out_shape, theta, **declared)
        _check(fn, takes, pool)
        self._fn, self._takes, self._per_row, self._pool = fn, takes, per_row, pool
        self._loop = Loop()
        self._setting: Tensor | None = None

    def program(self, theta: Tensor, /) -> None:
        self._setting = theta.detach().clone()

    def read(self, x: Tensor, /) -> Tensor:
        if self._setting is None:
            raise ArgumentError(f"{self} must be programmed before it is read")
        return self._answers([(x, self._setting)])[0]

    def measure(self, queries: Sequence[Query], /) -> list[Tensor]:
        if not queries:
            return []
        self._programmed = None
        readings = self._answers([(query.x, query.theta) for query in queries])
        self.program(queries[-1].theta)
        self._programmed = self._setting
        return readings

    def _answers(self, asked: Sequence[tuple[Tensor, Tensor]]) -> list[Tensor]:
        calls = [self._made(rows, theta) for x, theta in asked for rows in (x.detach() if self._per_row else [x])]
        answers = iter(self._called(calls))
        readings = []
        for x, _ in asked:
            if self._per_row:
                rows = [self._number(next(answers), x, self.out_shape, "a row") for _ in x]
                readings.append(torch.stack(rows) if rows else x.new_zeros(0, *self.out_shape))
            else:
                readings.append(self._number(next(answers), x, (len(x), *self.out_shape), f"{len(x)} rows"))
        return readings

    def _made(self, x: Tensor, theta: Tensor) -> Call:
        x, theta = x.detach(), theta.detach().clone()
        return (x, theta) if self._takes is None else (self._takes(x.cpu()), self._takes(theta.cpu()))

    def _called(self, calls: Sequence[Call]) -> list[Any]:
        if self._pool is not None:
            return _shared_out(self._pool, self._fn, calls, str(self))
        answers = [self._fn(*call) for call in calls]
        return self._loop.awaited(answers) if any(map(inspect.isawaitable, answers)) else answers

    def _number(self, y: Any, x: Tensor, expected: Shape, what: str) -> Tensor:
        """Convert the answer to a tensor like the rows x."""
        name = getattr(self._fn, "__name__", "fn")
        try:
            found = y.detach() if isinstance(y, Tensor) else torch.from_numpy(np.array(y))
        except (TypeError, ValueError) as error:
            kind = type(y).__name__
            raise ReadingError(
                f"{name} returned {kind} that is not an array of numbers, for {what}: {error}"
            ) from error
        if found.is_complex():
            raise ReadingError(
                f"{name} returned complex numbers; return the detected quantity, such as their real part or power"
            )
        if tuple(found.shape) != expected and not (found.dim() == 0 and expected == (1,)):
            hint = "" if self._per_row else "; if it takes one row at a time, say so by `per_row=True`"
            raise ReadingError(f"{name} returned shape {tuple(found.shape)}, expected {expected}, for {what}{hint}")
        if found.is_meta:
            raise ReadingError(f"{name} returned a tensor without numbers, on the device meta")
        return found.reshape(expected).to(x.device, x.dtype)

    def __repr__(self) -> str:
        return super().__repr__().replace("Callable", getattr(self._fn, "__name__", type(self._fn).__name__), 1)


def _check(fn: object, takes: object, pool: object) -> None:
    for name, value in (("fn", fn), ("takes", takes)):
        if not (callable(value) or (value is None and name == "takes")):
            raise ArgumentError(f"`from_callable({name}=...)` takes a function, got {value!r}")
    if pool is None:
        return
    if not isinstance(pool, Executor):
        raise ArgumentError(f"`from_callable(pool=...)` takes an Executor of concurrent.futures, got {pool!r}")
    if inspect.iscoroutinefunction(fn):
        raise ArgumentError("`from_callable(pool=...)`: coroutines wait side by side without a pool; leave it out")
    if isinstance(pool, ProcessPoolExecutor):
        try:
            pickle.dumps(fn)
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise ArgumentError(
                f"`from_callable(pool=...)`: {fn!r} cannot be sent to another process ({error}); define it in a module"
            ) from error


def _shared_out(pool: Executor, fn: Callable[[Any, Any], Any], calls: Sequence[Call], name: str) -> list[Any]:
    futures: list[Future[Any]] = []
    try:
        futures += [pool.submit(fn, *call) for call in calls]
        return [future.result() for future in futures]
    except BrokenExecutor as error:
        raise DeviceError(f"the pool of {name} broke, as when one of its processes dies: {error}") from error
    finally:
        for future in futures:
            future.cancel()  # cancels those that have not begun, if one has failed
