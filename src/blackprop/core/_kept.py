"""The part of a simulator's transfer that depends on θ alone, kept while the simulator stands at one setting."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import Tensor

MOST = 2**28  # bytes of coefficients that are kept
OWN = {"_programmed", "_declared", "_Simulator__kept"}  # attributes on which a transfer does not depend


class Kept(NamedTuple):
    """The coefficients of a device at one setting, and the attributes of the device that they were made from.

    The attributes themselves are kept, so that no other object can take the place of one in memory.
    """

    theta: Tensor  # (P,), the device's own
    coefficients: Tensor
    names: list[str]
    values: list[Any]
    versions: list[int]

    @classmethod
    def of(cls, theta: Tensor, coefficients: Tensor, attributes: Mapping[str, Any]) -> Kept | None:
        """Return them, or None where they are too large to be kept."""
        return cls(theta, coefficients, *_stamp(attributes)) if coefficients.nbytes <= MOST else None

    def serves(self, theta: Tensor, attributes: Mapping[str, Any]) -> bool:
        """Whether they hold at theta, the same object, and no attribute was changed or written to."""
        if self.theta is not theta:
            return False
        names, values, versions = _stamp(attributes)
        same = names == self.names and all(now is before for now, before in zip(values, self.values, strict=True))
        return same and versions == self.versions


def _stamp(attributes: Mapping[str, Any]) -> tuple[list[str], list[Any], list[int]]:
    """The names and values of the attributes, and how often each tensor was written to."""
    names, values, versions = [], [], []
    for name, value in attributes.items():
        if name not in OWN:
            names.append(name)
            values.append(value)
            versions.append(value._version if isinstance(value, Tensor) else 0)
    return names, values, versions
