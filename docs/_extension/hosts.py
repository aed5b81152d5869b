"""The built pages load files of their own site alone: no font, script or picture of another host."""

from __future__ import annotations

import re
from pathlib import Path

from sphinx.application import Sphinx
from sphinx.errors import ExtensionError

# Elements that a browser loads by itself. Links that a reader follows are not among them.
_LOADED = re.compile(
    r"<(?:script|img|iframe|source|video|audio|embed|object)\b[^>]*?\b(?:src|data|srcset)=[\"']\s*(?:https?:)?//[^\"']+"
    r"|<link\b(?=[^>]*\brel=[\"'](?:stylesheet|preload|preconnect|icon|dns-prefetch)\b)[^>]*?\bhref=[\"'](?:https?:)?//[^\"']+"
)
_IN_CSS = re.compile(r"(?:url\(\s*[\"']?|@import\s+[\"'])(?:https?:)?//[^\"')]+")


def setup(app: Sphinx) -> None:
    app.connect("build-finished", _check)


def _check(app: Sphinx, exception: Exception | None) -> None:
    if exception is None and app.builder.format == "html" and (found := loads_elsewhere(Path(app.outdir))):
        raise ExtensionError("the pages would load files of other hosts:\n" + "\n".join(found))


def loads_elsewhere(site: Path) -> list[str]:
    """Return each file of the site that loads from another host, with the address."""
    found = []
    for suffix, pattern in ((".html", _LOADED), (".css", _IN_CSS)):
        for path in sorted(site.rglob(f"*{suffix}")):
            found += [f"{path.relative_to(site)}: {hit}" for hit in pattern.findall(path.read_text(errors="replace"))]
    return found
