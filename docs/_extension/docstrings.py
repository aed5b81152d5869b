"""Docstrings are Markdown: autodoc finds them and their signatures, and MyST parses them."""

from __future__ import annotations

from typing import Any, ClassVar

from docutils import nodes
from docutils.utils import new_document
from myst_parser.parsers.sphinx_ import MystParser
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective


def setup(app: Sphinx) -> None:
    app.add_directive("markdown", Markdown)
    app.connect("autodoc-process-docstring", _hand_over)


class Markdown(SphinxDirective):
    """Markdown inside reStructuredText, as which autodoc hands docstrings on."""

    has_content: ClassVar[bool] = True

    def run(self) -> list[nodes.Node]:
        document = new_document(self.get_source_info()[0], self.state.document.settings)
        MystParser().parse("\n".join(self.content), document)
        return list(document.children)


def _hand_over(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    del app, what, name, obj, options
    if any(lines):
        # A doctest ends at an empty line in Python, and is a code block in Markdown.
        lines[:] = [".. markdown::", "", *(f"   {line}" for line in _fenced(lines)), ""]


def _fenced(lines: list[str]) -> list[str]:
    found: list[str] = []
    inside = False
    for line in lines:
        if line.startswith(">>>") and not inside:
            found += ["```pycon"]
            inside = True
        elif inside and not line.strip():
            found += ["```"]
            inside = False
        found.append(line)
    return [*found, "```"] if inside else found
