"""The process that writes a record, so that a reader can tell a killed run from a slow one."""

from __future__ import annotations

import contextlib
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def this_process() -> dict[str, Any]:
    """Return the number of this process, when it began, and the place where that number is valid."""
    pid = os.getpid()
    return {"pid": pid, "began": _began(pid), "place": place()}


def place() -> str:
    """Return the machine, its start, and the namespace of its process numbers, as far as they are known."""
    boot, namespace = "", ""
    with contextlib.suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    with contextlib.suppress(OSError):
        namespace = str(Path("/proc/self/ns/pid").readlink())
    return "/".join((platform.node(), boot, namespace))


def lives(process: Mapping[str, Any]) -> bool | None:
    """Return whether the process of a record still runs; None if it belongs to another place, or cannot be read."""
    pid = process.get("pid")
    if process.get("place") != place() or type(pid) is not int or pid <= 0:
        return None
    if not Path("/proc/self/stat").exists():
        return _answers(pid)
    return (now := _began(pid)) is not None and process.get("began") in {now, None}


def _answers(pid: int) -> bool | None:
    if os.name != "posix":  # elsewhere a signal ends the process
        return None
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass
    return True


def _began(pid: int) -> int | None:
    """The ticks from the machine's start to the process's; None if it has ended, or where they cannot be read."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in {"Z", "X"} else int(fields[19])  # a zombie has ended
