"""Code that Numba compiles, where it is installed."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache
from typing import TypeVar

from blackprop.errors import BlackpropWarning

T = TypeVar("T")


def or_none(build: Callable[[], T], what: str) -> T | None:
    """Return the result of `build`, or None where Numba is absent or fails; one warning names the failure.

    - `what`: the computation that is then slower, in the plural, for the warning.
    """
    try:
        return build()
    except Exception as error:
        if not (isinstance(error, ModuleNotFoundError) and error.name == "numba"):
            _warn(what, str(error))
        return None


@cache
def _warn(what: str, cause: str) -> None:
    warnings.warn(
        f"{what} are computed without compiled code: Numba fails with {cause}", BlackpropWarning, stacklevel=5
    )
