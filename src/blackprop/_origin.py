"""The time, version and commit with which a result is made."""

from __future__ import annotations

import functools
import subprocess
from datetime import datetime
from importlib import metadata
from pathlib import Path

_ROOT = Path(__file__).parents[2]  # of the checkout, where the library runs from one


def origin() -> dict[str, str]:
    """Return `begun`, the local time; `version`; and `commit`, if the library runs from a checkout."""
    found = {"begun": f"{datetime.now().astimezone():%Y-%m-%d %H:%M %z}", "version": _version()}
    return found if (commit := _commit()) is None else {**found, "commit": commit}


def _version() -> str:
    try:
        return metadata.version("blackprop")
    except metadata.PackageNotFoundError:
        return "that is not installed"


@functools.cache
def _commit() -> str | None:
    """Return the commit of the checkout, marked if files differ from it; None without a checkout or git."""
    if not (_ROOT / ".git").exists() or not (_ROOT / "pyproject.toml").exists():
        return None
    command = ["git", "-C", str(_ROOT), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        told = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return told.stdout.strip().replace("-dirty", " and changes") or None
