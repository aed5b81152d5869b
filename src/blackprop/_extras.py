"""How the packages that are needed for a part of the library alone are installed."""

from __future__ import annotations

import json
from importlib import metadata
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname


def install(extra: str) -> str:
    """The command that installs `extra`, one of those in pyproject.toml, from where the library itself came."""
    folder, editable = _source()
    if folder is None:
        return f"pip install '.[{extra}]' in a checkout of blackprop"
    return f"pip install {'-e ' if editable else ''}'{folder}[{extra}]'"


def _source() -> tuple[Path | None, bool]:
    """The folder that pip installed the library from, if it is still there, and whether the library runs from it."""
    try:
        told = json.loads(metadata.distribution("blackprop").read_text("direct_url.json") or "{}")
    except (metadata.PackageNotFoundError, ValueError):
        return None, False
    url = urlsplit(told.get("url", ""))
    folder = Path(url2pathname(url.path))
    known = url.scheme == "file" and (folder / "pyproject.toml").is_file()
    return folder if known else None, bool(told.get("dir_info", {}).get("editable"))
