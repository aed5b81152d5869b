"""The common part of the contract tests: a bench that queries, counts and records, and its report."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from blackprop.core._declaration import Declaration
from blackprop.core._ledger import Ledger
from blackprop.core._metered import Measurable, metered
from blackprop.core._probes import within
from blackprop.core._procedure import Procedure, run
from blackprop.core._query import Count, Query
from blackprop.core._theta import ThetaSpec
from blackprop.errors import ContractError, LimitError, ReadingError, ShapeError

T = TypeVar("T")


@dataclass(frozen=True)
class Report:
    """The result of a contract test: `claims`, pairs of a claim and its measurement, and the rows and programmings
    used.
    """

    subject: str
    claims: tuple[tuple[str, str], ...]
    rows: int
    programmings: int

    def __str__(self) -> str:
        width = max((len(claim) for claim, _ in self.claims), default=0)
        head = (
            f"{self.subject}: {len(self.claims)} claims hold ({self.rows:,} rows, {self.programmings:,} programmings)"
        )
        return "\n".join([head, *(f"  {claim:{width}}  {measured}" for claim, measured in self.claims)])


class Bench:
    """Queries, counts, and stops at the first claim that does not hold."""

    def __init__(self, subject: str) -> None:
        self.subject = subject
        self.ledger = Ledger()
        self._claims: list[tuple[str, str]] = []

    def run(self, claim: str, procedure: Procedure[T], device: Measurable, ledger: Ledger | None = None) -> T:
        """Run `procedure` as a layer does; a query or a reading that the driver refuses breaks `claim`."""
        spent = Ledger()
        try:
            with torch.no_grad():
                return run(procedure, metered(device, spent))
        except (ReadingError, LimitError, ShapeError) as error:
            raise ContractError(f"{self.subject}: {claim}: {error}") from error
        finally:
            for book in (self.ledger, ledger):
                if book is not None:
                    _add(book, spent)

    def note(self, claim: str, measured: str) -> None:
        self._claims.append((claim, measured))

    def require(self, holds: bool, claim: str, measured: str, declared: str) -> None:
        if not holds:
            raise ContractError(f"{self.subject}: {claim}: measured {measured}, declared {declared}")

    def settle(self, holds: bool, claim: str, measured: str, declared: str) -> None:
        """`require`, and record the claim."""
        self.require(holds, claim, measured, declared)
        self.note(claim, measured)

    @contextmanager
    def own_randomness(self, claim: str = "draws from the generator alone") -> Iterator[None]:
        before = global_streams()
        yield
        moved = moved_since(before)
        self.settle(not moved, claim, f"it moved {moved}" if moved else "yes", "yes")

    def report(self) -> Report:
        return Report(self.subject, tuple(self._claims), self.ledger.total_rows, self.ledger.total_programmings)


class Redeclared:
    """A device with another declaration and the same answers.

    Its readings carry a derivative that must not be taken. By default it hides the oracle, so it is a black box.
    """

    def __init__(self, device: Measurable, theta: ThetaSpec | None = None) -> None:
        self._device = device
        spec = device.declaration
        self.declaration: Declaration = replace(spec, oracle=None, theta=theta if theta is not None else spec.theta)

    @property
    def programmed(self) -> Tensor | None:
        return self._device.programmed

    def repeated(self) -> Count:
        return self._device.repeated()

    def measure(self, queries: Sequence[Query], /) -> list[Tensor]:
        readings = self._device.measure(queries)
        with torch.enable_grad():
            return [_Trap.apply(y.detach().requires_grad_()) for y in readings]  # pyright: ignore[reportReturnType]


class _Trap(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, y: Tensor) -> Tensor:
        del ctx
        return y.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        raise ContractError("a derivative was taken through a device's reading")


def together(procedures: Sequence[Procedure[T]]) -> Procedure[list[T]]:
    """Run all procedures in parallel, their rounds joined, so that a simulator answers them in one batch."""
    results: dict[int, T] = {}
    waiting: dict[int, Sequence[Query]] = {}

    def advance(i: int, answers: list[Tensor] | None) -> None:
        try:
            waiting[i] = next(procedures[i]) if answers is None else procedures[i].send(answers)
        except StopIteration as stop:
            waiting.pop(i, None)
            results[i] = stop.value

    for i in range(len(procedures)):
        advance(i, None)
    while waiting:
        rounds = list(waiting.items())
        readings = iter((yield [query for _, queries in rounds for query in queries]))
        for i, queries in rounds:
            advance(i, list(islice(readings, len(queries))))
    return [results[i] for i in range(len(procedures))]


def watched(procedure: Procedure[T], asked: list[Query]) -> Procedure[T]:
    """The same procedure, with its queries recorded in `asked`."""
    try:
        queries = next(procedure)
        while True:
            asked += queries
            queries = procedure.send((yield queries))
    except StopIteration as stop:
        return stop.value


def generator_or_default(generator: torch.Generator | None) -> torch.Generator:
    return generator if generator is not None else torch.Generator().manual_seed(0)


def normal(shape: Sequence[int], generator: torch.Generator, dtype: torch.dtype | None = None) -> Tensor:
    return torch.randn(*shape, generator=generator, device=generator.device, dtype=dtype)


def random_rows(
    spec: Declaration, count: int, generator: torch.Generator, dtype: torch.dtype | None = None
) -> Tensor:  # (count, *in_shape)
    """Return normal rows, moved into the limits of the inputs."""
    return within(spec, normal((count, *spec.in_shape), generator, dtype))


def fork(generator: torch.Generator) -> int:
    """Return a seed for a stream that can be restarted."""
    return int(torch.randint(2**62, (), generator=generator, device=generator.device))


def seeded(seed: int, generator: torch.Generator) -> torch.Generator:
    return torch.Generator(generator.device).manual_seed(seed)


def relative(error: Tensor, reference: Tensor) -> float:
    """Return `|error| / |reference|`, 0 if both vanish."""
    size = float(error.norm())
    return size / max(float(reference.norm()), 1e-30) if size else 0.0


def _add(book: Ledger, spent: Ledger) -> None:
    book.add(spent.spent, spent.costs)
    book.measured_seconds += spent.measured_seconds


def global_streams() -> dict[str, object]:
    kind, keys, *rest = np.random.get_state()  # noqa: NPY002
    return {
        "torch": torch.get_rng_state().numpy().tobytes(),
        "random": random.getstate(),
        "numpy": (kind, np.asarray(keys).tobytes(), *rest),
    }


def moved_since(before: dict[str, object]) -> str:
    """Return the global random streams that have moved since `before`."""
    names = [name for name, state in global_streams().items() if state != before[name]]
    return f"the global stream of {' and of '.join(names)}" if names else ""


def log_slope(x: Sequence[float], y: Sequence[float]) -> float:
    """Return the slope of log y against log x, by least squares."""
    u, v = (torch.tensor(values, dtype=torch.float64).log() for values in (x, y))
    u = u - u.mean()
    return float(u @ v / (u @ u))
