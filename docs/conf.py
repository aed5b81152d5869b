"""The documentation site: `make docs` builds it with Sphinx, warnings as errors."""

from __future__ import annotations

import os
import sys
from importlib import metadata
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from _extension.needs import skipped  # beside this file

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
    "sphinx_gallery.gen_gallery",
    "_extension",
]
exclude_patterns = ["_build", "_extension", "sg_execution_times.rst", "gallery/sg_execution_times.rst"]
source_suffix = {".md": "markdown", ".rst": "restructuredtext"}
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

GALLERY = Path(__file__).parents[1] / "examples/gallery"
# Scripts whose package or program is not here are left out of the site.
absent = [script.stem for script in skipped(sorted(GALLERY.glob("plot_*.py")))]

sphinx_gallery_conf = {
    "examples_dirs": "../examples/gallery",
    "gallery_dirs": "gallery",
    "filename_pattern": r"plot_.*\.py",
    "ignore_pattern": "|".join([r"__init__\.py", *absent]),
    "reset_modules": ("_extension.gallery.start",),
    "within_subsection_order": "FileNameSortKey",
    "abort_on_example_error": True,
    "min_reported_time": 0,
    "show_memory": False,
    "show_signature": False,
    "remove_config_comments": True,
    "write_computation_times": False,
}

linkcheck_timeout, linkcheck_retries, linkcheck_workers = 20, 2, 4
linkcheck_anchors = False

html_theme = "furo"
html_title = f"blackprop {release}"
html_static_path = ["_static"]
templates_path = ["_templates"]  # a heading for the page of the search
html_css_files = ["site.css"]
html_copy_source = False
html_show_sourcelink = False
copybutton_exclude = ".linenos, .gp, .go"
