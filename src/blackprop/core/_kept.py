"""The part of a simulator's transfer that depends on θ alone, kept while the simulator stands at one setting."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from blackprop.core._query import same_setting

MOST = 2**28  # bytes of coefficients that are kept
OWN = {"_programmed", "_declared", "_Simulator__kept"}  # attributes on which a transfer does not depend


class Kept:
    """The coefficients of a device at one setting, and the attributes of the device that they were made from."""

    def __init__(self, theta: Tensor, coefficients: Tensor, attributes: Mapping[str, Any]) -> None:
        self.theta, self.coefficients = theta, coefficients
        # The values are kept, so that no other object takes the place of one in memory.
        self._values = {name: value for name, value in attributes.items() if name not in OWN}
        self._versions = _versions(self._values)

    def serves(self, theta: Tensor, attributes: Mapping[str, Any]) -> bool:
        """Whether they are those at theta (P,), and no attribute was changed or written to."""
        now = {name: value for name, value in attributes.items() if name not in OWN}
        return (
            same_setting(self.theta, theta)
            and now.keys() == self._values.keys()
            and all(now[name] is value for name, value in self._values.items())
            and _versions(now) == self._versions
        )


def _versions(values: Mapping[str, Any]) -> list[int]:
    return [value._version for value in values.values() if isinstance(value, Tensor)]


def keepable(coefficients: Tensor) -> bool:
    return coefficients.numel() * coefficients.element_size() <= MOST
