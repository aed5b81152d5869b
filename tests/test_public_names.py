"""The public names are honest: each is defined by its module, documented, and listed in order."""

from __future__ import annotations

import inspect

import pytest

import blackprop as bp


@pytest.mark.parametrize("module", [bp, bp.devices, bp.estimators, bp.surrogates], ids=lambda m: m.__name__)
def test_public_names_exist_and_are_documented(module):
    assert len(set(module.__all__)) == len(module.__all__)
    for name in module.__all__:
        value = getattr(module, name)
        if inspect.isclass(value) or inspect.isfunction(value):
            assert inspect.getdoc(value), name


def test_the_core_imports_neither_extras_nor_dynamo():
    import subprocess
    import sys

    code = "import blackprop, sys; print([m for m in ('tyro', 'rich', 'sklearn', 'torch._dynamo') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
