"""The documentation site: every page in its tree, every public name on a page, links that stay in the repository.

`make docs` builds the site, and fails at warnings. These tests need no Sphinx, but for those that say so.
"""

from __future__ import annotations

import importlib
import importlib.util
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


GOOD = """<!doctype html><html lang="en"><title>a</title>
<meta name="viewport" content="width=device-width"><style>
:root { color-scheme: light dark; } body { color: #222; background: #fff; } a { color: #05c; }
@media (prefers-color-scheme: dark) { body { color: #ddd; background: #111; } a { color: #8bf; } CHANGE }
</style><h1>Title</h1><p>Text and <a href="#x">a link</a>.</p><label>Name <input></label><button>Go</button>
<img alt="a dot" src="data:image/gif;base64,R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7">MORE</html>"""
FAULTS = {
    "contrast in the light": ("MORE", '<p style="color: #999">pale</p>', "light, .*contrast 2"),
    "contrast in the dark": ("CHANGE", "a { color: #246; }", "dark, .*contrast"),
    "no name": ("MORE", "<select><option>a</select>", "select has no name"),
    "two headings": ("MORE", "<h1>b</h1>", "2 first headings"),
    "no text of a picture": ('alt="a dot"', "", "no text for"),
    "console": ("MORE", "<script>undefined.x</script>", "console: .*TypeError"),
    "another host": ("MORE", "<script>fetch('http://127.0.0.1:9/a.js').catch(() => 0)</script>", "asks another host"),
    "sideways": ("MORE", "<article><pre style='width: 900px'>a</pre></article>", "sideways to 9.*pre"),
}


@pytest.fixture(scope="module")
def checker():
    specification = importlib.util.spec_from_file_location("check_site", DOCS / "check_site.py")
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    if lacking := module.missing():
        pytest.skip(f"{lacking} is not installed")
    module.driver = module.opened()
    yield module
    module.driver.quit()


@pytest.mark.parametrize("name", ["none", *FAULTS])
def test_faults_of_a_page_are_found(checker, tmp_path: Path, name: str):
    place, change, words = FAULTS.get(name, ("MORE", "", ""))
    page = tmp_path / "page.html"
    page.write_text(GOOD.replace(place, change).replace("MORE", "").replace("CHANGE", ""))
    found = list(checker.faults(checker.driver, page))
    assert (not found) if name == "none" else any(re.search(words, fault) for fault in found), found


def test_scripts_that_cannot_run_here_are_told(tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch):
    monkeypatch.syspath_prepend(str(DOCS / "_extension"))
    needs = importlib.import_module("needs")
    for name, text in (("a", "# needs: re\n"), ("b", "# needs: nowhere_at_all\n"), ("c", "# needs-program: no-such\n")):
        (tmp_path / f"{name}.py").write_text(text)
    scripts = sorted(tmp_path.iterdir())
    assert needs.skipped(scripts) == scripts[1:]
    assert capsys.readouterr().err.splitlines()[0] == "b.py is left out: nowhere_at_all is not installed"
