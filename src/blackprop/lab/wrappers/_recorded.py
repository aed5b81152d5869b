"""Rounds of a device and their readings, recorded in a file and replayed without the device."""

from __future__ import annotations

import builtins
import hashlib
import weakref
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor

from blackprop import errors
from blackprop.core._declaration import Coupling
from blackprop.core._query import Count, Purpose, Query
from blackprop.core._round import Round
from blackprop.core._theta import ThetaSpec
from blackprop.core.capabilities._capability import Capability, restored
from blackprop.core.costs._cost import Cost, EnergyCost
from blackprop.devices import Device
from blackprop.errors import BlackpropError, CheckpointError, DeviceError
from blackprop.lab.wrappers._pass_through import PassThrough
from blackprop.lab.wrappers._recording import Reader, Record, Writer, declared, described


class Recorded(PassThrough):
    """Records the queries of a device and its answers, failures included, in the new file `path`.

    The file holds the declaration (without an oracle); every round with its settings, rows, purposes, readings and
    repetitions, and the setting that the device held afterwards; arguments and results of calls of `program` and
    `read`; and every initial θ with the state of the generator after it. A replayed run thus equals the recorded one.
    Rows and settings that queries of a round share are written once. `close()`, or a `with` block, closes the file.
    """

    def __init__(self, device: Device, path: str | Path) -> None:
        super().__init__(device)
        self._writer = Writer(Path(path))
        weakref.finalize(self, self._writer.file.close)
        self._writer.append(*declared(device.declaration))
        self.theta: ThetaSpec = replace(device.theta, initial=self._draw)

    def _draw(self, generator: torch.Generator) -> Tensor:
        before = _digest(generator)
        theta = self.device.theta.draw(generator)
        self._writer.append({"kind": "draw", "generator": before}, [theta, generator.get_state()])
        return theta

    def measure(self, queries: Sequence[Query], /) -> list[Tensor]:
        self._writer.require_open()
        queries = Round.of(queries)
        header, arrays = described(queries)
        try:
            readings = self.device.measure(queries)
        except Exception as error:
            self._append_failure(header, arrays, error)
            raise
        self._append(header, [*arrays, *readings])
        return readings

    def program(self, theta: Tensor, /) -> None:
        self._writer.require_open()
        header = {"kind": "program"}
        try:
            super().program(theta)
        except Exception as error:
            self._append_failure(header, [theta], error)
            raise
        self._append(header, [theta])

    def read(self, x: Tensor, /) -> Tensor:
        self._writer.require_open()
        header = {"kind": "read"}
        try:
            y = self.device.read(x)
        except Exception as error:
            self._append_failure(header, [x], error)
            raise
        self._append(header, [x, y])
        return y

    def _append_failure(self, header: dict[str, Any], arrays: list[Tensor], error: Exception) -> None:
        self._append({**header, "failed": [type(error).__name__, str(error)]}, arrays)

    def _append(self, header: dict[str, Any], arrays: list[Tensor]) -> None:
        again = self.device.repeated()
        self._again.add(again)
        held = self.programmed
        header["again"] = [{p.value: n for p, n in c.items()} for c in (again.rows, again.programmings)]
        header["again"].append(dict(again.actions))
        header["held"] = held is not None
        self._writer.append(header, arrays if held is None else [*arrays, held])

    def close(self) -> None:
        self._writer.file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        del kind, error, trace
        self.close()


class Replayed(Device):
    """Replays a recording, in its order, without the device.

    A query that differs raises `DeviceError`, which names the first difference, and the position is unchanged; so does
    a query after the end. Numbers may differ by `tolerance · max(1, |recorded|)`; shapes, dtypes and purposes not
    at all. A recorded failure is raised again, and `repeated()`, `programmed` and the draws of the initial θ are as
    they were. A file that ends within a record, as when the recording process was killed, is replayed up to there with
    a warning; one that is damaged raises `CheckpointError`. `capabilities` are the types of those
    that the recorded device declares; others are left out. `left` is how many records are still to be played.
    """

    path: Path
    tolerance: float

    def __init__(
        self, path: str | Path, *, tolerance: float = 0.0, capabilities: Iterable[type[Capability]] = ()
    ) -> None:
        if not tolerance >= 0:
            raise errors.ArgumentError(f"`Replayed(tolerance=...)` must not be negative, got {tolerance}")
        self._records = Reader(Path(path))
        weakref.finalize(self, self._records.close)
        if not len(self._records):
            raise CheckpointError(f"{path} ends before its first record")
        try:
            header, limits = self._records[0]
            low, high = (None if n is None else limits[n] if isinstance(n, int) else float(n) for n in header["limits"])
            theta = ThetaSpec(header["size"], self._draw, low, high, header["period"], header.get("harmonics"))
            energy = None if header.get("energy") is None else EnergyCost(**header["energy"])
            cost = Cost(*header["cost"], energy=energy)  # older recordings name no actions and no energy
            x_low, x_high = header.get("input_limits", (None, None))
            shapes = tuple(header["in_shape"]), tuple(header["out_shape"])
            super().__init__(
                *shapes,
                theta,
                linear=header["linear"],
                coupling=Coupling(header["coupling"]),
                cost=cost,
                noise=header["noise"],
                x_low=x_low,
                x_high=x_high,
                capabilities=restored(header.get("capabilities", {}), capabilities),
            )
            self.rows_each: int = int(header.get("rows_each", 1))
            self._name = str(header["name"])
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise CheckpointError(f"{path} does not begin with a declaration: {error!r}") from error
        self.path, self.tolerance = Path(path), tolerance
        self._next, self._asked = 1, 0
        self._again = Count()

    @property
    def left(self) -> int:
        return len(self._records) - self._next

    def _draw(self, generator: torch.Generator) -> Tensor:
        header, (theta, state) = self._expect("draw")
        if header["generator"] != _digest(generator):
            raise DeviceError(f"{self._where()}: the initial setting is drawn from another generator than was recorded")
        generator.set_state(state)
        self._next += 1
        return theta

    def measure(self, queries: Sequence[Query], /) -> list[Tensor]:
        header, arrays = self._expect("round")
        asked = header["queries"]
        if len(queries) != len(asked):
            raise DeviceError(f"{self._where()}: {len(queries)} queries in a round, recorded {len(asked)}")
        seen: dict[tuple[int, int], bool] = {}  # rows shared by many queries are compared once
        for index, (query, (x, theta, purpose, *action)) in enumerate(zip(queries, asked, strict=True)):
            what = f"{self._where()}, query {self._asked + index}"
            if query.purpose.value != purpose:
                raise DeviceError(f"{what}: asked for {query.purpose.value}, recorded for {purpose}")
            name = [] if query.capability is None else [query.capability.name]
            if name != action:
                raise DeviceError(f"{what}: asked by {name or 'read'}, recorded by {action or 'read'}")
            for name, value, place in (("theta", query.theta, theta), ("x", query.x, x)):
                if not seen.get((id(value), place)):
                    self._compare(f"{what}: {name}", value, arrays[place])
                    seen[id(value), place] = True
        self._asked += len(queries)
        rest = self._finish(header, arrays, header["inputs"])
        return [y.to(query.x.device) for query, y in zip(queries, rest, strict=True)]

    def program(self, theta: Tensor, /) -> None:
        header, arrays = self._expect("program")
        self._compare(f"{self._where()}: theta", theta, arrays[0])
        self._finish(header, arrays, 1)

    def read(self, x: Tensor, /) -> Tensor:
        header, arrays = self._expect("read")
        self._compare(f"{self._where()}: x", x, arrays[0])
        return self._finish(header, arrays, 1)[0].to(x.device)

    def repeated(self) -> Count:
        total, self._again = self._again, Count()
        return total

    def _expect(self, kind: str) -> Record:
        if not self.left:
            raise DeviceError(f"{self.path} is at its end: all of its {self._next - 1} records are played")
        header, arrays = self._records[self._next]
        if header["kind"] != kind:
            raise DeviceError(f"{self._where()}: asked for a {kind}, recorded a {header['kind']}")
        return header, arrays

    def _where(self) -> str:
        return f"{self.path}, record {self._next}"

    def _compare(self, what: str, value: Tensor, recorded: Tensor) -> None:
        for name, mine, its in (
            ("shape", tuple(value.shape), tuple(recorded.shape)),
            ("dtype", value.dtype, recorded.dtype),
        ):
            if mine != its:
                raise DeviceError(f"{what} has {name} {mine}, recorded {its}")
        value = value.detach().to(recorded.device)
        far = ~((value - recorded).abs() <= self.tolerance * recorded.abs().clamp(min=1))
        if bool(far.any()):
            place = far.nonzero()[0].tolist()
            mine, its = (float(tensor[tuple(place)]) for tensor in (value, recorded))
            raise DeviceError(
                f"{what}{place} = {mine:.9g}, recorded {its:.9g}: differs in {int(far.sum())} of {far.numel()} numbers "
                f"by more than the tolerance of {self.tolerance:g}"
            )

    def _finish(self, header: dict[str, Any], arrays: list[Tensor], inputs: int) -> list[Tensor]:
        """Go on to the next record, and return the arrays of this one that the device returned."""
        rows, programmings, *actions = header["again"]  # older recordings name no actions
        by_purpose = [Counter({Purpose(name): n for name, n in c.items()}) for c in (rows, programmings)]
        self._again.add(Count(by_purpose[0], by_purpose[1], Counter(actions[0] if actions else {})))
        rest = arrays[inputs:]
        self._programmed = rest.pop() if header["held"] else None
        self._next += 1
        if "failed" in header:
            raise _error(*header["failed"])
        return rest

    def close(self) -> None:
        self._records.close()

    def state_dict(self) -> dict[str, Any]:
        return {"next": self._next, "asked": self._asked}

    def load_state_dict(self, state: Mapping[str, Any], /) -> None:
        place, asked = int(state["next"]), int(state["asked"])
        if not 1 <= place <= len(self._records):
            raise ValueError(f"{self.path} has {len(self._records)} records, and was to go on at {place}")
        self._next, self._asked, self._programmed = place, asked, None

    @property
    def kind(self) -> str | None:
        return None

    def __repr__(self) -> str:
        return f"Replayed({self._name})"


def _digest(generator: torch.Generator) -> str:
    return hashlib.sha256(generator.get_state().numpy().tobytes()).hexdigest()


def _error(name: str, text: str) -> Exception:
    """Return the recorded failure: an error of the library or an `OSError`, otherwise a `DeviceError`."""
    kind = getattr(errors, name, None) or getattr(builtins, name, None)
    if isinstance(kind, type) and issubclass(kind, (BlackpropError, OSError)):
        return kind(text)
    return DeviceError(f"recorded: {name}: {text}")
