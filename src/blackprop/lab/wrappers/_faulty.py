"""A device whose link and detector fail now and then, to try everything else on."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from blackprop.core._query import Query
from blackprop.core._round import Round
from blackprop.devices import Device
from blackprop.errors import ArgumentError, InDoubtError, ProtocolError, UnreachableError
from blackprop.lab.wrappers._pass_through import PassThrough

BITS = {torch.float32: torch.int32, torch.float64: torch.int64}


class Faulty(PassThrough):
    """Fails at given rates, from 0 to 1 a round (`nan_rows`: a row), drawn from `seed`.

    | rate | what happens | measured? |
    | --- | --- | --- |
    | `restart` | the device forgets its setting; `UnreachableError` | no |
    | `timeout` | half: the request is lost, `UnreachableError`; half: the answer, `TimeoutError` | half |
    | `late` | the answer takes `delay` s longer | yes |
    | `duplicated` | the request arrives twice, and is booked twice | twice |
    | `dropped` | the answer is lost; `InDoubtError` | yes |
    | `corrupted` | a checksum fails, `ProtocolError`; if `silent`, one bit of one value is turned | yes |
    | `nan_rows` | every output of the row is NaN | yes |
    | `stuck` | one output keeps, for all rows, the value that it read last | yes |

    At most one of the first two and one of the two losses happens to a round. `injected` counts the faults (`nan_rows`
    in rows). `program` and `read` by hand do not fail.
    """

    silent: bool
    delay: float

    def __init__(
        self,
        device: Device,
        *,
        seed: int = 0,
        restart: float = 0.0,
        timeout: float = 0.0,
        late: float = 0.0,
        duplicated: float = 0.0,
        dropped: float = 0.0,
        corrupted: float = 0.0,
        nan_rows: float = 0.0,
        stuck: float = 0.0,
        silent: bool = False,
        delay: float = 0.05,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        super().__init__(device)
        self.rates: dict[str, float] = {
            "restart": restart,
            "timeout": timeout,
            "late": late,
            "duplicated": duplicated,
            "dropped": dropped,
            "corrupted": corrupted,
            "stuck": stuck,
            "nan_rows": nan_rows,
        }
        for name, rate in self.rates.items():
            if not 0 <= rate <= 1:
                raise ArgumentError(f"`Faulty({name}=...)` must be from 0 to 1, got {rate}")
        if not delay >= 0:
            raise ArgumentError(f"`Faulty(delay=...)` must not be negative, got {delay}")
        self.silent, self.delay, self._sleep = silent, delay, sleep
        self.injected: Counter[str] = Counter()
        self._generator = torch.Generator().manual_seed(seed)
        self._last: Tensor | None = None  # the outputs (d_out,) of the row read last

    def measure(self, queries: Sequence[Query], /) -> list[Tensor]:
        queries = Round.of(queries)
        # Every round draws alike, so that a fault at another rate leaves the others where they were.
        draws = dict(zip(self.rates, torch.rand(len(self.rates), generator=self._generator).tolist(), strict=True))
        happens = {name for name, rate in self.rates.items() if draws[name] < rate} - {"nan_rows"}
        if "restart" in happens:
            self.forget()
            self._fail("restart", UnreachableError(f"{self.device} restarted"))
        if "timeout" in happens and draws["timeout"] < self.rates["timeout"] / 2:
            self._fail("timeout", UnreachableError(f"{self.device} did not get the request in time"))
        if "late" in happens:
            self.injected["late"] += 1
            self._sleep(self.delay)
        readings = self.device.measure(queries)
        if "duplicated" in happens:
            self.injected["duplicated"] += 1
            self._again.add(queries.spending(self.programmed, self.rows_each, self.declaration))
            self.device.measure(queries)
        if "timeout" in happens:
            self._fail("timeout", TimeoutError(f"{self.device} did not answer in time"))
        if "dropped" in happens:
            self._fail("dropped", InDoubtError(f"the answer of {self.device} was lost"))
        if "corrupted" in happens and not self.silent:
            self._fail("corrupted", ProtocolError(f"the answer of {self.device} does not fit its checksum"))
        return self._spoiled(readings, happens) if queries.plain else readings

    def _fail(self, name: str, error: Exception) -> None:
        self.injected[name] += 1
        raise error

    def _spoiled(self, readings: list[Tensor], happens: set[str]) -> list[Tensor]:
        rows = sum(len(y) for y in readings)
        last, self._last = self._last, self._last_row(readings)
        lost = torch.rand(rows, generator=self._generator) < self.rates["nan_rows"] if self.rates["nan_rows"] else None
        if not rows or not ({"stuck", "corrupted"} & happens or (lost is not None and bool(lost.any()))):
            return readings
        joined = torch.cat([y.flatten(1) for y in readings])
        if "stuck" in happens and last is not None:
            self.injected["stuck"] += 1
            channel = self._pick(joined.shape[1])
            joined[:, channel] = last[channel].to(joined)
        if "corrupted" in happens:
            self.injected["corrupted"] += 1
            bits = BITS[joined.dtype]
            whole = joined.view(bits)
            row, channel, bit = self._pick(rows), self._pick(joined.shape[1]), self._pick(torch.iinfo(bits).bits - 1)
            whole[row, channel] ^= 1 << bit
        if lost is not None:
            self.injected["nan_rows"] += int(lost.sum())
            joined[lost.to(joined.device)] = torch.nan
        parts = joined.split([len(y) for y in readings])
        return [part.view(y.shape) for part, y in zip(parts, readings, strict=True)]

    def _last_row(self, readings: list[Tensor]) -> Tensor | None:
        if not self.rates["stuck"]:
            return None
        return next((y[-1].flatten().clone() for y in reversed(readings) if len(y)), self._last)

    def _pick(self, below: int) -> int:
        return int(torch.randint(below, (), generator=self._generator))

    def state_dict(self) -> dict[str, Any]:
        own = {"generator": self._generator.get_state(), "last": self._last, "injected": dict(self.injected)}
        return {**super().state_dict(), **own}

    def load_state_dict(self, state: Mapping[str, Any], /) -> None:
        generator = torch.Generator()
        generator.set_state(state["generator"].cpu())
        last, injected = state["last"], Counter(state["injected"])
        super().load_state_dict(state)
        self._generator, self._last, self.injected = generator, last, injected
