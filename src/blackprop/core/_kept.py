"""The part of a simulator's transfer that depends on θ alone, kept while the simulator stands at one setting."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import repeat
from operator import is_
from types import FunctionType, MethodType
from typing import Any, NamedTuple

import torch
from torch import Tensor

MOST = 2**28  # bytes of coefficients that are kept
OWN = {
    "_programmed",
    "_declared",
    "_Simulator__kept",
    "_Simulator__read",
}  # attributes on which a transfer does not depend
DECLARED = {"in_shape", "out_shape", "theta", "linear", "coupling", "cost", "noise", "x_low", "x_high", "capabilities"}
PLAIN = {int, float, bool, str, bytes, complex, type(None), torch.dtype, torch.device, torch.Generator, torch.Size}
CODE = (type, FunctionType, MethodType)
LONG = 16  # entries of a tuple: a longer one is a layout of numbers, and cannot be written to


class Kept(NamedTuple):
    """The coefficients of a device at one setting, and all the parts of the device that they were made from.

    The parts themselves are kept, so that no other object can take the place of one in memory.
    """

    theta: Tensor  # (P,), the device's own
    coefficients: Tensor
    values: list[Any]
    versions: list[int]

    @classmethod
    def of(cls, theta: Tensor, coefficients: Tensor, attributes: Mapping[str, Any]) -> Kept | None:
        """Return them; None if they are too large to be kept, or if writing to a tensor would not be noticed."""
        stamp = _stamp(theta, attributes) if coefficients.nbytes <= MOST else None
        return None if stamp is None else cls(theta, coefficients, *stamp)

    def serves(self, theta: Tensor, attributes: Mapping[str, Any]) -> bool:
        """Whether they hold at theta, the same object, and no part of the device was changed or written to."""
        if self.theta is not theta:
            return False
        stamp = _stamp(theta, attributes)
        if stamp is None or stamp[1] != self.versions or len(stamp[0]) != len(self.values):
            return False
        return all(map(is_, stamp[0], self.values))


def _stamp(theta: Tensor, attributes: Mapping[str, Any]) -> tuple[list[Any], list[int]] | None:
    """The setting and the parts of a device, to any depth, and how often each tensor was written to.

    None if a tensor does not count that, as those made under `torch.inference_mode`.
    """
    if theta.is_inference():
        return None
    values, versions, seen = [theta], [theta._version], set()
    waiting: list[Iterable[tuple[object, Any]]] = [attributes.items()]
    for items in waiting:  # grows
        for name, value in items:
            if name in OWN:
                continue
            values.append(value)
            if isinstance(value, Tensor):
                if value.is_inference():
                    return None
                versions.append(value._version)
            elif type(value) in PLAIN or name in DECLARED or id(value) in seen:
                continue
            elif isinstance(value, dict):
                waiting.append(value.items())
            elif isinstance(value, list) or (isinstance(value, tuple) and len(value) <= LONG):
                waiting.append(zip(repeat(None), value, strict=False))
            elif not isinstance(value, CODE) and hasattr(value, "__dict__"):
                waiting.append(vars(value).items())
            seen.add(id(value))
    return values, versions
