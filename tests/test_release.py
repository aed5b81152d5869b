"""Files of a release: one version, links of the README by configuration, names of change files, the citation."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import blackprop

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_the_version_has_one_place():
    assert "version" in PROJECT["project"]["dynamic"]
    assert PROJECT["tool"]["hatch"]["version"]["path"] == "src/blackprop/__init__.py"
    citation = (ROOT / "CITATION.cff").read_text()
    assert re.findall(r"^version: (\S+)$", citation, re.MULTILINE) == [blackprop.__version__]
    assert not re.search(r"\d+\.\d+\.\d+", (ROOT / "docs/conf.py").read_text())


def test_the_core_needs_pytorch_and_numpy_alone():
    names = {re.split(r"[<>=\[]", each)[0] for each in PROJECT["project"]["dependencies"]}
    assert names == {"torch", "numpy"}


def test_change_files_have_a_kind():
    kinds = {kind["directory"] for kind in PROJECT["tool"]["towncrier"]["type"]}
    for path in (ROOT / "changes").iterdir():
        if path.name != "README.md":
            assert re.fullmatch(rf"\+[a-z0-9-]+\.({'|'.join(kinds)})\.md", path.name), path.name
            assert path.read_text().strip(), path.name
    assert PROJECT["tool"]["towncrier"]["start_string"] in (ROOT / "CHANGELOG.md").read_text()


def test_the_readme_of_a_package_leads_to_the_configured_repository(monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("hatchling", reason="hatchling builds the packages")
    specification = importlib.util.spec_from_file_location("hatch_build", ROOT / "hatch_build.py")
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    monkeypatch.delenv("BLACKPROP_REPOSITORY", raising=False)
    monkeypatch.delenv("BLACKPROP_FILES", raising=False)
    hook = module.Places(str(ROOT), {})
    plain: dict[str, object] = {}
    hook.update(plain)
    assert plain["urls"] == {}
    monkeypatch.setenv("BLACKPROP_REPOSITORY", "https://host.example/owner/blackprop/")
    filled: dict[str, object] = {}
    hook.update(filled)
    assert filled["urls"]["Source"] == "https://host.example/owner/blackprop"  # pyright: ignore[reportIndexIssue]
    text = filled["readme"]["text"]  # pyright: ignore[reportIndexIssue]
    assert "](https://host.example/owner/blackprop/blob/main/docs/how-to-choose.md)" in text
    assert not re.search(r"\]\((?!https?://|#)", text)


@pytest.mark.slow
def test_public_signatures_are_typed(tmp_path: Path):
    """basedpyright finds the type of at least 99 % of the public symbols, without inferring any."""
    tool = Path(sys.executable).parent / "basedpyright"
    if not tool.exists():
        pytest.skip("basedpyright is not installed")
    folders = [str(Path(blackprop.__file__).parents[1]), *(path for path in sys.path if path.endswith("site-packages"))]
    told = subprocess.run(
        [tool, "--verifytypes", "blackprop", "--ignoreexternal", "--outputjson"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(folders)},
        check=False,
    )
    found = json.loads(told.stdout)["typeCompleteness"]
    lacking = [symbol["name"] for symbol in found["symbols"] if symbol["isExported"] and not symbol["isTypeKnown"]]
    assert len(found["symbols"]) > 1000
    assert found["completenessScore"] >= 0.99, lacking[:20]
