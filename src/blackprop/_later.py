"""Names of a package that are imported at their first use."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def later(package: str, places: Mapping[str, str]) -> Callable[[str], Any]:
    """Return the `__getattr__` of a package whose names are imported at their first use.

    - `places`: the names, separated by spaces, of each module of the package; a submodule is a name of its package.
    """
    module_of = {name: module for module, names in places.items() for name in names.split()}

    def find(name: str) -> Any:
        if name not in module_of:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module = import_module(module_of[name])
        found = vars(module).get(name)
        found = import_module(f"{module.__name__}.{name}") if found is None else found
        setattr(sys.modules[package], name, found)  # the next look-up finds it
        return found

    return find
