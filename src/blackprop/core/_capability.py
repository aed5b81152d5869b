"""Capabilities: what a device can do beyond program and read, declared and asked for by type."""

from __future__ import annotations

import abc
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from torch import Tensor

from blackprop.errors import ArgumentError, IncompatibleError

if TYPE_CHECKING:
    from blackprop.core._declaration import Declaration

Shape = tuple[int, ...]
RESERVED = {"read", "rows", "programmings", "seconds"}  # names of a round's readings and of a budget's limits
C = TypeVar("C", bound="Capability")


@dataclass(frozen=True)
class Capability(abc.ABC):
    """An action of a device beyond `program` and `read`: a frozen dataclass whose fields describe it.

    A device declares it with `Device(..., capabilities=(MyCapability(...),))`. A procedure asks for it with
    `Query(x, theta, purpose, MyCapability)`, and finds its description with `spec.capability(MyCapability)`. The driver
    checks, counts, prices and budgets such a query as any other; what a row and a reading look like is told by
    `row_shape` and `reading_shape`.

    Class attributes:

    - `name`: the name in ledgers, budgets, recordings and on the wire.
    - `unit`: `"rows"` (default) where one row sent is one row of the device, which the ledger then also counts as a
      row. Any other word, as `"pulses"`, is a currency of its own, and `amount` tells how much of it a query spends.
    - `writes`: whether it changes the setting that the device holds (default False).
    """

    name: ClassVar[str]
    unit: ClassVar[str] = "rows"
    writes: ClassVar[bool] = False

    def row_shape(self, spec: Declaration) -> Shape:
        """The shape of one row that is sent; by default that of `read`."""
        return spec.in_shape

    def reading_shape(self, spec: Declaration) -> Shape:
        """The shape of the reading of one row; by default that of `read`."""
        return spec.out_shape

    @abc.abstractmethod
    def perform(self, device: Any, x: Tensor, /) -> Tensor:
        """Do it on `device`, which holds the setting: rows (rows, *row_shape) in, (rows, *reading_shape) out."""

    def amount(self, x: Tensor) -> int:
        """How many units the rows x (rows, *row_shape) spend."""
        return len(x)

    def check_rows(self, x: Tensor, spec: Declaration) -> None:
        """Raise `LimitError` unless the finite rows x may be sent; by default any may."""
        del x, spec

    def fields(self) -> dict[str, Any]:
        """The description as plain values, for the wire and for recordings; read back by the class itself."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


def declared(owner: str, capabilities: Iterable[Capability]) -> tuple[Capability, ...]:
    """The capabilities of a device, checked: instances, each type and each name once."""
    found = tuple(capabilities)
    for each in found:
        if not isinstance(each, Capability):
            raise ArgumentError(f"`{owner}(capabilities=...)` takes instances of `Capability`, got {each!r}")
    names = [each.name for each in found]
    if taken := RESERVED.intersection(names):
        raise ArgumentError(f"`{owner}(capabilities=...)`: {', '.join(taken)} names something else already")
    if len(set(names)) < len(names):
        raise ArgumentError(f"`{owner}(capabilities=...)` declares each capability once, got {', '.join(names)}")
    return found


def find(owner: str, capabilities: tuple[Capability, ...], kind: type[C]) -> C:
    """The declared capability of this type; `IncompatibleError` where there is none."""
    for each in capabilities:
        if isinstance(each, kind):
            return each
    others = ", ".join(each.name for each in capabilities) or "none"
    raise IncompatibleError(f"{owner} does not declare the capability `{kind.name}`; it declares: {others}")


def restored(described: Mapping[str, Mapping[str, Any]], kinds: Iterable[type[Capability]]) -> tuple[Capability, ...]:
    """The capabilities that were described by `fields`, of the known types; others are left out."""
    known = {kind.name: kind for kind in kinds}
    return tuple(known[name](**values) for name, values in described.items() if name in known)


class All:
    """Every capability survives: the wrapper hands rounds on as they are."""

    def __repr__(self) -> str:
        return "ALL"


ALL = All()
Survives = All | tuple[type[Capability], ...]


def surviving(capabilities: tuple[Capability, ...], survives: Survives) -> tuple[Capability, ...]:
    """Those of the capabilities that survive."""
    if isinstance(survives, All):
        return capabilities
    return tuple(each for each in capabilities if isinstance(each, survives))
