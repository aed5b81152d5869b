"""The rules of the house: sizes of files and folders, names that stand once, and the list of public names."""

from __future__ import annotations

import ast
import importlib
import inspect
import subprocess
import sys
from collections import Counter
from pathlib import Path
from statistics import median

import pytest

import blackprop

PACKAGE = Path(blackprop.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
# Packages whose `__init__` is a list of public names.
PUBLIC = (
    "blackprop",
    "blackprop.characterisation",
    "blackprop.conversion",
    "blackprop.core",
    "blackprop.deployment",
    "blackprop.devices",
    "blackprop.directions",
    "blackprop.errors",
    "blackprop.estimators",
    "blackprop.experiments",
    "blackprop.experiments.report",
    "blackprop.experiments.reservoirs",
    "blackprop.foreign",
    "blackprop.lab",
    "blackprop.learning_rules",
    "blackprop.monitoring",
    "blackprop.nn",
    "blackprop.optim",
    "blackprop.planning",
    "blackprop.presets",
    "blackprop.surrogates",
    "blackprop.testing",
    "blackprop.twins",
)
# One idea on two sides.
TWICE = {"EquilibriumPropagation", "Frozen", "Oracle", "Twin"}


def test_no_file_is_long_and_half_are_short():
    lengths = {str(path.relative_to(PACKAGE)): len(path.read_text().splitlines()) for path in FILES}
    assert {name: n for name, n in lengths.items() if n > 300} == {}
    assert median(lengths.values()) <= 150


def test_no_folder_is_a_hall():
    sizes = Counter(path.parent for path in FILES)
    assert {str(folder.relative_to(PACKAGE)): n for folder, n in sizes.items() if n > 16} == {}


def test_modules_of_packages_are_private():
    top = {"__init__.py", "__main__.py", "directions.py", "errors.py", "presets.py"}
    wrong = [
        path for path in FILES if not path.name.startswith("_") and not (path.parent == PACKAGE and path.name in top)
    ]
    assert wrong == []


def test_a_class_name_stands_once():
    names = Counter(
        node.name for path in FILES for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ClassDef)
    )
    assert {name for name, n in names.items() if n > 1} <= TWICE


def public() -> dict[int, str]:
    """Every public object once, by the package nearest to the root that lists it."""
    found: dict[int, str] = {}
    for package in sorted(PUBLIC, key=lambda name: name.count(".")):
        module = importlib.import_module(package)
        for name in listed(module):
            found.setdefault(id(getattr(module, name)), f"{package}.{name}")
    return found


def listed(module: object) -> list[str]:
    """The names that a module lists, or defines where it has no list."""
    own = [
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and getattr(value, "__module__", None) == getattr(module, "__name__", None)
    ]
    return list(getattr(module, "__all__", own))


@pytest.mark.parametrize("package", PUBLIC)
def test_public_names_are_sorted_and_documented(package):
    module = importlib.import_module(package)
    names = listed(module)
    assert len(set(names)) == len(names)
    if hasattr(module, "__all__"):
        assert names == sorted(names, key=lambda name: (not name.isupper(), name[:1].islower(), name))
    for name in names:
        value = getattr(module, name)
        if inspect.isclass(value) or inspect.isfunction(value):
            assert inspect.getdoc(value), name


def test_the_public_names_are_these_many():
    """A name more is a promise more: raise the number with a reason, and prefer a method of what is there."""
    assert len(public()) <= 358


def test_a_step_imports_neither_the_compiler_nor_the_devices_of_others():
    """The compiler takes seconds to import. (Each optimizer of PyTorch imports it when it is made, so none is used.)"""
    code = """
import sys, torch, blackprop as bp
layer = bp.PhysicalLayer(bp.devices.LightModulator(4, 4))
for _ in range(2):
    layer(torch.rand(3, 4, requires_grad=True)).sum().backward()
    layer.theta.data -= layer.theta.grad
print([m for m in sys.modules if m in ("torch._dynamo", "sympy") or m.startswith("blackprop.devices.electronic")])
"""
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_the_core_imports_neither_extras_nor_dynamo():
    code = "import blackprop, sys; print([m for m in ('tyro', 'rich', 'sklearn', 'torch._dynamo') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
