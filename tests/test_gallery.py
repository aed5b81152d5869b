"""Every script of the gallery at its small setting: it runs, asserts its claim, and ends in a figure.

A line `STEPS = 400  # quick: 120` is run as `STEPS = 120`. `make gallery` and `make docs` run the scripts as they are.
"""

from __future__ import annotations

import ast
import re
import shutil
import warnings
from pathlib import Path

import pytest
import torch

from blackprop.errors import BlackpropWarning

plt = pytest.importorskip("matplotlib.pyplot", reason="the gallery draws with matplotlib")

SCRIPTS = sorted((Path(__file__).parents[1] / "examples/gallery").glob("plot_*.py"))
NEEDS, PROGRAMS = (re.compile(rf"^# {word}: (\w+)$", re.MULTILINE) for word in ("needs", "needs-program"))
QUICK = re.compile(r"^([A-Z]+) = \d+  # quick: (\d+)$", re.MULTILINE)


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_scripts_of_the_gallery(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("sklearn", reason="some scripts load scikit-learn's data")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(plt, "show", lambda: None)
    plt.switch_backend("agg")
    torch.manual_seed(0)
    text, count = QUICK.subn(r"\1 = \2", path.read_text())
    for needed in NEEDS.findall(text):
        pytest.importorskip(needed, reason=f"{needed} is not installed")
    for needed in PROGRAMS.findall(text):
        if shutil.which(needed) is None:
            pytest.skip(f"{needed} is not installed")
    assert count == 1
    tree = ast.parse(text)
    assert any(isinstance(node, ast.Assert) for node in tree.body[-6:])
    try:
        with warnings.catch_warnings():
            if NEEDS.search(text):  # other libraries warn at their import
                warnings.simplefilter("ignore")
                warnings.simplefilter("error", BlackpropWarning)
            exec(compile(tree, str(path), "exec"), {"__name__": "__main__"})
        figures = [plt.figure(number) for number in plt.get_fignums()]
        assert len(figures) == 1
        assert all(axis.has_data() and axis.get_title() for axis in figures[0].axes)
    finally:
        plt.close("all")


def test_titles_of_the_gallery_differ_and_stand_first():
    titles = [(ast.get_docstring(ast.parse(path.read_text())) or "").splitlines()[:2] for path in SCRIPTS]
    assert len({title for title, _ in titles}) == len(SCRIPTS)
    assert all(set(line) == {"="} and len(line) >= len(title) for title, line in titles)
