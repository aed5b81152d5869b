"""`{command-help} ARGUMENTS`: the help of a command of `blackprop`, as it prints it."""

from __future__ import annotations

import contextlib
import io
import os
from typing import ClassVar
from unittest import mock

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

WIDTH = "92"


def setup(app: Sphinx) -> None:
    app.add_directive("command-help", CommandHelp)


class CommandHelp(SphinxDirective):
    """The help text of `blackprop ARGUMENTS --help` as a block of text."""

    optional_arguments: ClassVar[int] = 1
    final_argument_whitespace: ClassVar[bool] = True

    def run(self) -> list[nodes.Node]:
        arguments = self.arguments[0].split() if self.arguments else []
        block = nodes.literal_block("", told := help_of(arguments))
        block["language"] = "text"
        assert told, arguments
        return [block]


def help_of(arguments: list[str]) -> str:
    """Return the help that `blackprop ARGUMENTS --help` prints."""
    from blackprop.cli._main import main  # noqa: PLC0415  # the extra `recipes`, needed by this page alone

    told = io.StringIO()
    environment = {"COLUMNS": WIDTH, "NO_COLOR": "1", "TERM": "dumb"}
    with mock.patch.dict(os.environ, environment), contextlib.redirect_stdout(told), contextlib.suppress(SystemExit):
        main([*arguments, "--help"])
    return told.getvalue().strip("\n")
