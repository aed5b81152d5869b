"""The documentation site: `make docs` builds it with Sphinx, warnings as errors."""

from __future__ import annotations

import os
import sys
from importlib import metadata
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

project = "blackprop"
author = "The blackprop developers"
copyright = author  # noqa: A001  # Sphinx's name
version = release = metadata.version("blackprop")
# The address of the repository's files, such as https://host/owner/blackprop/blob/main: links to folders lead there.
repository = os.environ.get("BLACKPROP_REPOSITORY", "").rstrip("/")

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "sphinx_design",
    "_extension",
]
exclude_patterns = ["_build", "_extension"]
source_suffix = {".md": "markdown"}
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 4
suppress_warnings = ["myst.header"]  # the README begins its sections where it likes

autodoc_inherit_docstrings = False  # a method is listed where it says something of its own
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_typehints_format = "short"
python_maximum_signature_line_length = 88
python_use_unqualified_type_names = True
viewcode_line_numbers = True

html_theme = "furo"
html_title = f"blackprop {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sourcelink = False
copybutton_exclude = ".linenos, .gp, .go"
