"""Metadata that depends on where the repository is: the project's URLs, and the README with links that lead there.

`BLACKPROP_REPOSITORY` is the address of the repository, for example https://host/owner/blackprop, and
`BLACKPROP_FILES` (default: `BLACKPROP_REPOSITORY`/blob/main) the address of its files. Without them the package has
neither URLs nor absolute links.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

PLACES = {
    "Documentation": "docs/index.md",
    "Changelog": "CHANGELOG.md",
    "Security": "SECURITY.md",
}


class Places(MetadataHookInterface):
    """Fill `urls` and `readme`."""

    def update(self, metadata: dict[str, Any]) -> None:
        repository = os.environ.get("BLACKPROP_REPOSITORY", "").rstrip("/")
        files = os.environ.get("BLACKPROP_FILES", f"{repository}/blob/main" if repository else "").rstrip("/")
        text = (Path(self.root) / "README.md").read_text(encoding="utf-8")
        metadata["urls"] = {"Source": repository} if repository else {}
        if files:
            metadata["urls"] |= {name: f"{files}/{path}" for name, path in PLACES.items()}
            text = re.sub(r"\]\((?!https?://|#)([^)]+)\)", rf"]({files}/\1)", text)
        metadata["readme"] = {"content-type": "text/markdown", "text": text}
