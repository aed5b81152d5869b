"""Methods that `torch.compile` runs as they are."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import MethodType
from typing import Any, TypeVar, cast

import torch

F = TypeVar("F", bound=Callable[..., Any])


class _Uncompiled:
    """A method that `torch.compile` runs as it is, as one with `torch.compiler.disable`.

    The latter imports the compiler, which takes seconds; this one uses it only if it is loaded.
    """

    def __init__(self, method: Callable[..., Any]) -> None:
        self.method = method
        self.disabled = torch._disable_dynamo(method)  # pyright: ignore[reportPrivateImportUsage]
        self.__doc__ = method.__doc__

    def __get__(self, instance: object | None, owner: type | None = None) -> Callable[..., Any]:
        method: Any = self.disabled if "torch._dynamo" in sys.modules else self.method
        if instance is None:
            return method
        if torch.compiler.is_compiling():
            torch._dynamo.graph_break(f"`{owner.__name__ if owner else ''}.forward` should not be traced")
        return MethodType(method, instance)


def uncompiled(method: F) -> F:
    """Return the method as one that `torch.compile` runs as it is; the types of its arguments are kept."""
    return cast(F, _Uncompiled(method))
