"""The Sphinx extension of this site: the reference of public names, the help of commands, and links out of docs/."""

from __future__ import annotations

from typing import Any

from sphinx.application import Sphinx

from . import commands, docstrings, hosts, pages, reference


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_config_value("repository", "", "env", [str])
    for part in (pages, docstrings, reference, commands, hosts):
        part.setup(app)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
