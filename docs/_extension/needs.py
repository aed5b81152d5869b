"""Which scripts of the gallery can run here: `# needs: PACKAGE` and `# needs-program: PROGRAM` name their needs.

Run with the paths of scripts, it prints those that can run, and says of the others what they lack.
"""

from __future__ import annotations

import importlib.util
import re
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path

NEED = re.compile(r"^# needs(-program)?: ([\w-]+)$", re.MULTILINE)


def lacking(script: Path) -> list[str]:
    """Return the packages and programs that a script needs and that are not installed."""
    needs = NEED.findall(script.read_text())
    return [name for program, name in needs if not (shutil.which(name) if program else importlib.util.find_spec(name))]


def skipped(scripts: Iterable[Path]) -> list[Path]:
    """Return the scripts that cannot run here, and say so."""
    found = [(script, lacking(script)) for script in scripts]
    for script, missing in found:
        if missing:
            sys.stderr.write(f"{script.name} is left out: {', '.join(missing)} is not installed\n")
    return [script for script, missing in found if missing]


if __name__ == "__main__":
    given = [Path(path) for path in sys.argv[1:]]
    absent = skipped(given)
    sys.stdout.write(" ".join(str(path) for path in given if path not in absent))
