"""Whether tensors were replaced or written to since they were looked at last."""

from __future__ import annotations

from operator import attrgetter, is_

from torch import Tensor

_version = attrgetter("_version")


class Looked:
    """Whether tensors are the ones of the last look, and none was written to since."""

    def __init__(self) -> None:
        self._tensors: tuple[Tensor, ...] = ()
        self._versions: list[int] = []

    def unchanged(self, *tensors: Tensor) -> bool:
        versions = list(map(_version, tensors))
        same = versions == self._versions and all(map(is_, tensors, self._tensors))
        self._tensors, self._versions = tensors, versions
        return same
