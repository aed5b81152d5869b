"""Pages that lie outside docs/, indexes of folders, and links between files of the repository."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from sphinx.application import Sphinx

ROOT = Path(__file__).parents[2]
# Files of the repository's root, and the pages that include them.
INCLUDED = {
    "README.md": "docs/overview.md",
    "ARCHITECTURE.md": "docs/architecture.md",
    "CONTRIBUTING.md": "docs/contributing.md",
    "CHANGELOG.md": "docs/changelog.md",
}
_INCLUDE = re.compile(r"^```\{include\} (\S+)\n```$", re.MULTILINE)
_LINK = re.compile(r"(?P<text>!?\[[^\]]*\])\((?P<path>[^)#\s:]+)(?P<anchor>#[^)\s]*)?\)")
# The README of a folder is its index; a reader of the plain files has its table of links.
_INDEX = "\n\n```{toctree}\n:hidden:\n:glob:\n\n*\n```\n"


def setup(app: Sphinx) -> None:
    app.connect("source-read", _read)


def _read(app: Sphinx, page: str, source: list[str]) -> None:
    here = f"docs/{page}.md"
    if not (ROOT / here).exists():
        return

    def included(match: re.Match[str]) -> str:
        path = posixpath.normpath(posixpath.join(posixpath.dirname(here), match[1]))
        app.env.note_dependency(str(ROOT / path))
        return rebased((ROOT / path).read_text(), path, here, app.config.repository)

    text, count = _INCLUDE.subn(included, source[0])
    source[0] = text if count else rebased(text, here, here, app.config.repository)
    if page.endswith("/README"):
        source[0] += _INDEX


def rebased(text: str, source: str, page: str, repository: str) -> str:
    """Return the text of the file `source` with its relative links as they must stand in the file `page`.

    Links to included files lead to their pages. Links to folders and to other pages outside docs/ lead to the
    repository, and become plain text where its address is not configured.
    """

    def link(match: re.Match[str]) -> str:
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), match["path"]))
        target = INCLUDED.get(path, path)
        if (ROOT / path).is_dir() or (target.endswith(".md") and not target.startswith("docs/")):
            return f"{match['text']}({repository}/{path})" if repository else match["text"][1:-1]
        return f"{match['text']}({posixpath.relpath(target, posixpath.dirname(page))}{match['anchor'] or ''})"

    parts = re.split(r"(^```.*?^```)", text, flags=re.MULTILINE | re.DOTALL)
    return "".join(part if part.startswith("```") else _LINK.sub(link, part) for part in parts)
