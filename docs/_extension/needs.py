"""Which scripts of the gallery can run here: `# needs: PACKAGE` and `# needs-program: PROGRAM` name their needs.

Run with the paths of scripts, it prints those that can run.
"""

from __future__ import annotations

import importlib.util
import re
import shutil
import sys
from pathlib import Path

NEED = re.compile(r"^# needs(-program)?: (\w+)$", re.MULTILINE)


def runnable(script: Path) -> bool:
    """Whether the packages and programs that a script needs are installed."""
    return all(
        shutil.which(name) if program else importlib.util.find_spec(name)
        for program, name in NEED.findall(script.read_text())
    )


if __name__ == "__main__":
    sys.stdout.write(" ".join(path for path in sys.argv[1:] if runnable(Path(path))))
