"""A device in another process, or on another machine of a Ray cluster: its queries go there as arrays."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import torch
from torch import Tensor

from blackprop._extras import install
from blackprop.core._declaration import properties
from blackprop.core._query import Count, Query
from blackprop.core._round import Round
from blackprop.core.capabilities._capability import Capability
from blackprop.devices._base import Device
from blackprop.errors import ArgumentError, BlackpropError, DeviceError, UnreachableError

Told = tuple[Any, BaseException | None, Count]  # an answer, or an error, and the repetitions


class RayDevice(Device):
    """The device that `factory` makes, in a Ray actor that holds it and no other. Needs the extra `ray`.

    Rows, settings and readings travel as NumPy arrays.

    **Arguments:**

    - `factory`: a function without arguments that Ray can send (from a module that is installed there too, or a
      `partial` of such a function).
    - `cpus` (default 1), `resources` (default none): the resources of the cluster that the actor occupies. Use a
      resource that only the machine at the device offers to run it there.
    - `timeout` (s, default 600): for a round, and for making the device.

    **Raises** the errors of the device, if they are errors of the library or `OSError`, `KeyError`, `TypeError` or
    `ValueError`; for any other error, and for an actor that dies, a `DeviceError` that names it. Ray then starts the
    actor anew, with a new device from `factory`, which a `Farm` tries and takes back.
    """

    def __init__(
        self,
        factory: Callable[[], Device],
        *,
        cpus: float = 1.0,
        resources: Mapping[str, float] | None = None,
        timeout: float = 600.0,
    ) -> None:
        ray = running_ray()
        if not callable(factory):
            raise ArgumentError(f"`RayDevice(factory)` takes a function that makes the device, got {factory!r}")
        if not timeout > 0:
            raise ArgumentError(f"`RayDevice(timeout=...)` takes seconds, above 0, got {timeout}")
        self._ray, self._timeout = ray, timeout
        self._again = Count()
        host = ray.remote(_Host).options(num_cpus=cpus, resources=dict(resources or {}), max_restarts=-1)
        self._actor = host.remote(factory)
        try:
            about = self._call("about")
        except BlackpropError:
            self.close()
            raise
        self._name, rows_each = about.pop("name"), about.pop("rows_each")
        super().__init__(**about)
        self.rows_each = rows_each

    def program(self, theta: Tensor, /) -> None:
        self._call("program", _array(theta))

    def read(self, x: Tensor, /) -> Tensor:
        return _tensor(self._call("read", _array(x)), x)

    def measure(self, queries: Sequence[Query], /) -> list[Tensor]:
        asked, self._programmed = Round.of(queries), None
        if not len(asked):
            return []
        parts, settings = [_array(part) for part in asked.parts], _array(asked.settings)
        readings = self._call("measure", parts, settings, asked.table, asked.kinds)
        self._programmed = asked.last_setting.clone()
        return [_tensor(y, query.x) for y, query in zip(readings, asked, strict=True)]

    def repeated(self) -> Count:
        again, self._again = self._again, Count()
        return again

    def forget(self) -> None:
        super().forget()
        self._call("forget")

    def state_dict(self) -> dict[str, Any]:
        return self._call("state_dict")

    def load_state_dict(self, state: Mapping[str, Any], /) -> None:
        self._call("load_state_dict", dict(state))

    def close(self) -> None:
        """Close the device, where it can be closed, and end its actor."""
        try:
            self._call("close")
        finally:
            self._ray.kill(self._actor)

    @property
    def kind(self) -> str | None:
        return None

    def __repr__(self) -> str:
        return f"RayDevice({self._name})"

    def _call(self, name: str, *arguments: Any) -> Any:
        exceptions = self._ray.exceptions
        try:
            told: Told = self._ray.get(getattr(self._actor, name).remote(*arguments), timeout=self._timeout)
        except exceptions.GetTimeoutError as error:
            raise UnreachableError(f"the actor has not answered within {self._timeout:g} s") from error
        except exceptions.RayTaskError as error:  # its message, or its answer, could not be read
            raise DeviceError(f"the actor failed: {error.cause!r}") from error
        except exceptions.RayError as error:
            raise DeviceError(f"the actor is gone: {str(error).strip().splitlines()[0]}") from error
        answer, fault, again = told
        self._again.add(again)
        if fault is not None:
            raise fault
        return answer


def ray_members(
    factory: Callable[[int], Device],
    count: int,
    *,
    cpus: float = 1.0,
    resources: Mapping[str, float] | None = None,
    timeout: float = 600.0,
) -> list[RayDevice]:
    """Return `count` devices for a `Farm`, each in its own actor; `factory(i)` makes device i."""
    if count < 1:
        raise ArgumentError(f"`ray_members(count=...)` must be at least 1, got {count}")
    with ThreadPoolExecutor(count) as pool:  # an actor takes seconds to start
        make = partial(RayDevice, cpus=cpus, resources=resources, timeout=timeout)
        jobs = [pool.submit(make, partial(factory, number)) for number in range(count)]
    failures = [error for job in jobs if (error := job.exception()) is not None]
    if failures:
        for job in jobs:
            if job.exception() is None:
                job.result().close()
        raise failures[0]
    return [job.result() for job in jobs]


def running_ray() -> Any:
    """The module, where it is installed and this process is part of a cluster."""
    try:
        import ray  # noqa: PLC0415  # an extra, and slow to import
        import ray.exceptions  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise ArgumentError(f"Ray devices need the extra `ray`: {install('ray')}") from error
    if not ray.is_initialized():
        raise ArgumentError("this process is part of no Ray cluster: call `ray.init()` first")
    return ray


class _Host:
    """The object in the actor. A failure of the factory is reported to the caller that requests its device."""

    def __init__(self, factory: Callable[[], Device]) -> None:
        torch.set_num_threads(1)
        self.device: Device | None = None
        try:
            device = factory()
            if not isinstance(device, Device):
                raise ArgumentError(f"it returned a {type(device).__name__}, not a `blackprop.Device`")
            self.device = device
        except Exception as error:
            self.fault = _tellable(error, "the factory failed: ")

    def about(self) -> Told:
        return self._told(
            lambda device: {
                "name": str(device),
                "in_shape": device.in_shape,
                "out_shape": device.out_shape,
                "theta": device.theta,
                "rows_each": device.rows_each,
                **properties(device),
            }
        )

    def measure(self, parts: list[Any], settings: Any, table: Any, kinds: tuple[type[Capability] | None, ...]) -> Told:
        asked = Round([torch.tensor(part) for part in parts], torch.tensor(settings), table, kinds)
        return self._told(lambda device: [_array(y) for y in device.measure(asked)])

    def program(self, theta: Any) -> Told:
        return self._told(lambda device: device.program(torch.tensor(theta)))

    def read(self, x: Any) -> Told:
        return self._told(lambda device: _array(device.read(torch.tensor(x))))

    def forget(self) -> Told:
        return self._told(lambda device: device.forget())

    def state_dict(self) -> Told:
        return self._told(lambda device: device.state_dict())

    def load_state_dict(self, state: dict[str, Any]) -> Told:
        return self._told(lambda device: device.load_state_dict(state))

    def close(self) -> Told:
        return self._told(lambda device: getattr(device, "close", lambda: None)())

    def _told(self, work: Callable[[Device], Any]) -> Told:
        if self.device is None:
            return None, self.fault, Count()
        answer, fault = None, None
        try:
            with torch.no_grad():
                answer = work(self.device)
        except Exception as error:
            fault = _tellable(error)
        return answer, fault, self.device.repeated()


def _tellable(error: Exception, before: str = "") -> Exception:
    """An error as it can be raised elsewhere: the class of any other may not exist there."""
    if isinstance(error, (BlackpropError, OSError, KeyError, TypeError, ValueError)) and not before:
        return error.with_traceback(None)
    if isinstance(error, BlackpropError):
        return type(error)(f"{before}{error}")
    return DeviceError(f"{before}{type(error).__name__}: {error}")


def _array(tensor: Tensor) -> Any:
    return tensor.detach().cpu().resolve_neg().numpy()


def _tensor(array: Any, like: Tensor) -> Tensor:
    return torch.tensor(array).to(like.device)
