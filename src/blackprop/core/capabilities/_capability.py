"""Capabilities: actions of a device beyond program and read, declared and requested by type."""

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
RESERVED = {"read", "rows", "programmings", "seconds", "joules"}  # names of a round's readings and of a budget's limits
C = TypeVar("C", bound="Capability")


@dataclass(frozen=True)
class Capability(abc.ABC):
    """An action of a device beyond `program` and `read`: a frozen dataclass whose fields describe it.

    A device declares it with `Device(..., capabilities=(MyCapability(...),))`. A procedure requests it with
    `Query(x, theta, purpose, MyCapability)`, and finds its description with `spec.capability(MyCapability)`. The driver
    checks, counts, prices and budgets such a query as any other. `row_shape` and `reading_shape` return the shapes of a
    row and of a reading.

    Class attributes:

    - `name`: the name in ledgers, budgets, recordings and on the wire.
    - `unit`: `"rows"` (default) if one row sent is one row of the device, which the ledger then also counts as a row.
      Any other word, as `"pulses"`, is a currency of its own; `amount` returns the units that a query spends.
    - `writes`: whether it changes the setting that the device holds (default False).
    - `lasting`: whether it moves a state that the device keeps beside its setting (default False). Such a query is
      never sent twice, and a farm does not spread it.
    - `per_parameter`: whether its description follows the order of θ; a wrapper that renumbers θ drops it (default
      False).
    """

    name: ClassVar[str]
    unit: ClassVar[str] = "rows"
    writes: ClassVar[bool] = False
    lasting: ClassVar[bool] = False
    per_parameter: ClassVar[bool] = False

    def row_shape(self, spec: Declaration) -> Shape:
        """Return the shape of one row that is sent; by default that of `read`."""
        return spec.in_shape

    def reading_shape(self, spec: Declaration) -> Shape:
        """Return the shape of the reading of one row; by default that of `read`."""
        return spec.out_shape

    @abc.abstractmethod
    def perform(self, device: Any, x: Tensor, /) -> Tensor:
        """Perform the action on `device`, which holds the setting: x (rows, *row_shape) to (rows, *reading_shape)."""

    def amount(self, x: Tensor) -> int:
        """Return the number of units that the rows x (rows, *row_shape) spend; by default one a row."""
        return len(x)

    def check_rows(self, x: Tensor, spec: Declaration) -> None:
        """Raise `LimitError` unless the finite rows x may be sent; by default accept all."""
        del x, spec

    def fields(self) -> dict[str, Any]:
        """Return the description as plain values, for the wire and for recordings: arguments of the class."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


def declared(owner: str, capabilities: Iterable[Capability]) -> tuple[Capability, ...]:
    """Return the capabilities of a device, after a check: instances, each type and each name once."""
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
    """Return the declared capability of this type; raise `IncompatibleError` if there is none."""
    for each in capabilities:
        if isinstance(each, kind):
            return each
    others = ", ".join(each.name for each in capabilities) or "none"
    raise IncompatibleError(f"{owner} does not declare the capability `{kind.name}`; it declares: {others}")


def restored(described: Mapping[str, Mapping[str, Any]], kinds: Iterable[type[Capability]]) -> tuple[Capability, ...]:
    """Return the capabilities of known types that `fields` described; omit the others."""
    known = {kind.name: kind for kind in kinds}
    return tuple(known[name](**values) for name, values in described.items() if name in known)


class All:
    """Every capability survives: the wrapper passes rounds through unchanged."""

    def __repr__(self) -> str:
        return "ALL"


ALL = All()
Survives = All | tuple[type[Capability], ...]


def surviving(capabilities: tuple[Capability, ...], survives: Survives) -> tuple[Capability, ...]:
    """Return the capabilities that survive."""
    if isinstance(survives, All):
        return capabilities
    return tuple(each for each in capabilities if isinstance(each, survives))
