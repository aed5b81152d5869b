"""The command `blackprop` up to where it needs PyTorch: its version, its help, and the names of its commands.

A package of its own, since importing `blackprop` imports PyTorch, which takes seconds.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import metadata
from textwrap import wrap

from blackprop_cli.names import UnknownName, resolve

__all__ = ["ALIASES", "COMMANDS", "UnknownName", "answered", "main", "resolve"]
COMMANDS = {
    "train": "Train one network by one method on one device.",
    "compare": "Train by several methods over devices and seeds; oracle and frozen are always among them.",
    "sweep": "What compare does, its runs side by side in the workers of a Ray cluster; the same files and figures.",
    "price": "What one run of each method on each device would cost, without asking any device anything.",
    "report": "Write one self-contained page of what runs found: tables and charts that open offline.",
    "watch": "Serve one page that follows runs while they run: losses, costs, health of devices, warnings.",
    "check-device": "Hold a device of yours to what it declares: the contract tests of blackprop.testing.",
    "characterise": "Find out what a device of yours is, by asking it alone, and report it with a declaration of it.",
    "deploy": "Carry a trained model to devices of yours, stage by stage, and write its settings.",
    "serve": "Serve a device of yours over the network, to clients whose keys are authorised; Ctrl-C ends it in order.",
    "keys": "Make the keys of a server and of one client, who is authorised.",
}
ALIASES = {"characterize": "characterise", "check": "check-device"}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (by default the process's own) and return the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    code = answered(arguments)
    if code is not None:
        return code
    from blackprop.cli._main import main as run  # noqa: PLC0415  # imports PyTorch

    return run(arguments)


def answered(arguments: Sequence[str]) -> int | None:
    """The exit code of what is answered at once: the version, the help, a command that does not exist. Else None."""
    match arguments:
        case ["--version" | "-V", *_]:
            sys.stdout.write(f"blackprop {metadata.version('blackprop')}\n")
            return 0
        case ["--help" | "-h", *_]:
            sys.stdout.write(_help())
            return 0
        case []:
            sys.stderr.write(_help())
            return 2
        case [name, *_] if not name.startswith("-"):
            try:
                resolve("command", name, COMMANDS, ALIASES)
            except UnknownName as error:
                sys.stderr.write(f"blackprop: {error}\n")
                return 2
    return None


def _help() -> str:
    summary = metadata.metadata("blackprop")["Summary"]
    lines = ["usage: blackprop [-h] [--version] COMMAND ...", "", summary, "", "commands:"]
    for name, told in COMMANDS.items():
        first, *rest = wrap(told, 62)
        lines += [f"  {name:<14}{first}", *(" " * 16 + line for line in rest)]
    lines += ["", "`blackprop COMMAND --help` lists the options of a command."]
    return "\n".join(lines) + "\n"
