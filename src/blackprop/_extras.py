"""Installation commands of optional packages."""

from __future__ import annotations

import json
from importlib import metadata
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname


def install(extra: str) -> str:
    """Return the command that installs an extra of pyproject.toml from the source of this installation."""
    folder, editable = _source()
    if folder is None:
        return f"pip install '.[{extra}]' in a checkout of blackprop"
    return f"pip install {'-e ' if editable else ''}'{folder}[{extra}]'"


def _source() -> tuple[Path | None, bool]:
    """Return the folder from which pip installed the library (None if gone), and whether it is editable."""
    try:
        told = json.loads(metadata.distribution("blackprop").read_text("direct_url.json") or "{}")
    except (metadata.PackageNotFoundError, ValueError):
        return None, False
    url = urlsplit(told.get("url", ""))
    folder = Path(url2pathname(url.path))
    known = url.scheme == "file" and (folder / "pyproject.toml").is_file()
    return folder if known else None, bool(told.get("dir_info", {}).get("editable"))
