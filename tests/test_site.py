"""The documentation site: every page in its tree, every public name on a page, links that stay in the repository.

`make docs` builds the site, and fails at warnings. These tests need no Sphinx, but for those that say so.
"""

from __future__ import annotations

import importlib
import inspect
import re
import sys
from pathlib import Path

import pytest

import blackprop
from test_house import PUBLIC

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(p for p in DOCS.rglob("*.md") if "_build" not in p.parts)
TREE = re.compile(r"^```\{toctree\}\n(.*?)^```", re.MULTILINE | re.DOTALL)
NAMES = re.compile(r"^```\{public-names\} (\S+)\n```$", re.MULTILINE)


def listed() -> set[Path]:
    """The pages of the toctrees; a README brings those of its folder, as docs/_extension/pages.py makes it."""
    found = set()
    for page in PAGES:
        for tree in TREE.findall(page.read_text()):
            entries = [line.rpartition("<")[2].rstrip(">") for line in tree.splitlines() if line and line[0] != ":"]
            found |= {page.parent / f"{entry}.md" for entry in entries}
    return found | {page for readme in found if readme.stem == "README" for page in readme.parent.glob("*.md")}


def test_every_page_is_in_a_toctree_and_every_entry_is_a_page():
    generated = {DOCS / "gallery/index.md"}
    assert set(PAGES) - listed() == {DOCS / "index.md"}
    assert listed() - set(PAGES) - generated == set()


def test_every_public_package_has_a_page_of_the_reference():
    pages = [name for page in PAGES for name in NAMES.findall(page.read_text())]
    packages = {name: importlib.import_module(name) for name in PUBLIC}
    listed_in = [(home, name) for home, package in packages.items() for name in getattr(package, "__all__", [])]
    modules = {f"{home}.{name}" for home, name in listed_in if inspect.ismodule(getattr(packages[home], name))}
    assert sorted(pages) == sorted({*PUBLIC, *modules})


def test_pages_that_include_a_file_include_one_that_exists():
    for page in PAGES:
        for target in re.findall(r"^```\{include\} (\S+)$", page.read_text(), re.MULTILINE):
            assert (page.parent / target).is_file(), (page, target)


def test_the_table_of_the_reference_names_every_page_of_its_folder():
    text = (DOCS / "reference/README.md").read_text()
    missing = [p.name for p in (DOCS / "reference").glob("*.md") if p.name != "README.md" and f"({p.name})" not in text]
    assert missing == []


@pytest.fixture
def extension(monkeypatch: pytest.MonkeyPatch):
    for needed in ("sphinx", "myst_parser"):
        pytest.importorskip(needed, reason="the site's own code needs Sphinx: pip install '.[docs]'")
    monkeypatch.syspath_prepend(str(DOCS))
    yield
    for name in [name for name in sys.modules if name.partition(".")[0] == "_extension"]:
        del sys.modules[name]


@pytest.mark.usefixtures("extension")
def test_every_public_name_has_one_home():
    from _extension import reference

    from test_house import public

    assert set(public().values()) <= set(reference.homes().values())
    assert reference.homes()[id(blackprop.Budget)] == "blackprop.Budget"
    assert reference.homes()[id(blackprop.core.Round)] == "blackprop.core.Round"


@pytest.mark.usefixtures("extension")
@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("bp.Budget", "blackprop.Budget"),
        ("PhysicalLayer(device)", "blackprop.PhysicalLayer"),
        ("bp.devices.Noisy(device, read=0.01)", "blackprop.devices.Noisy"),
        ("Noisy", "blackprop.devices.Noisy"),
        ("Oracle", None),  # an estimator and a surrogate have this name
        ("price", None),  # an ordinary word
        ("Budgets", None),
    ],
)
def test_code_that_names_a_public_object_is_linked(text: str, meant: str | None):
    from _extension.reference import _meant

    assert _meant(text) == meant


@pytest.mark.usefixtures("extension")
def test_links_are_rebased_to_the_page_that_includes_the_file():
    from _extension.pages import rebased

    code = "\n```\n[e](README.md)\n```\n"
    text = f"[a](docs/drift.md#one) [b](ARCHITECTURE.md) [c](src/blackprop/lab) ![d](docs/ring.svg){code}"
    plain = rebased(text, "README.md", "docs/overview.md", "")
    assert plain == f"[a](drift.md#one) [b](architecture.md) c ![d](ring.svg){code}"
    assert "[c](https://host/blob/src/blackprop/lab)" in rebased(text, "README.md", "docs/x.md", "https://host/blob")
    up = rebased("[a](../../CONTRIBUTING.md)", "docs/extending/README.md", "docs/extending/README.md", "")
    assert up == "[a](../contributing.md)"
    assert rebased("[a](changes/README.md)", "CONTRIBUTING.md", "docs/contributing.md", "") == "a"


@pytest.mark.usefixtures("extension")
def test_files_of_other_hosts_are_found(tmp_path: Path):
    from _extension.hosts import loads_elsewhere

    (tmp_path / "good.html").write_text('<a href="https://a.example">a</a><script src="_static/a.js"></script>')
    assert loads_elsewhere(tmp_path) == []
    (tmp_path / "bad.html").write_text('<script async src="https://a.example/a.js"></script>')
    (tmp_path / "worse.html").write_text('<link href="//a.example/f.css" rel="stylesheet">')
    (tmp_path / "bad.css").write_text("@font-face { src: url(https://a.example/f.woff) }")
    assert len(loads_elsewhere(tmp_path)) == 3


@pytest.mark.usefixtures("extension")
def test_the_help_of_a_command_is_as_it_prints_it():
    from _extension.commands import help_of

    assert help_of(["keys"]).startswith("usage: blackprop keys")
    assert "check-device" in help_of([])
