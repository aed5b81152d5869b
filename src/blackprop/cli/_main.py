"""The command `blackprop`: turns strings into objects, and errors into one line.

Exit codes: 0 done, 2 refused (a `BlackpropError`, or arguments that cannot be read), 130 interrupted.
"""

from __future__ import annotations

import contextlib
import inspect
import io
import re
import shlex
import sys
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Union

from blackprop._extras import install

try:
    import tyro
    from rich.console import Console
except ModuleNotFoundError as error:
    lacking = (error.name or "").partition(".")[0]
    raise SystemExit(f"blackprop: the command line needs {lacking}: {install('recipes')}") from None

from blackprop.cli._arguments import TASKS_OF, understood
from blackprop.cli._compare_reservoirs import CompareReservoirs
from blackprop.cli._lab_commands import Characterise, CheckDevice, Deploy, Keys, Serve
from blackprop.cli._run_commands import (
    TASKS,
    CompareCommand,
    Interrupted,
    PriceCommand,
    ReportCommand,
    SweepCommand,
    TrainCommand,
    WatchCommand,
)
from blackprop.errors import ArgumentError, BlackpropError
from blackprop_cli import COMMANDS, UnknownName, answered, resolve

_CONFIG = (
    tyro.conf.OmitArgPrefixes,
    tyro.conf.OmitSubcommandPrefixes,
    tyro.conf.EnumChoicesFromValues,
    tyro.conf.FlagCreatePairsOff,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (by default the process's own) and return the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if (code := answered(arguments)) is not None:
        return code
    console = Console(width=None if sys.stdout.isatty() else 100)
    try:
        arguments = understood(arguments)
        _parse(arguments)(console)
    except BlackpropError as error:
        sys.stderr.write(f"blackprop: {' '.join(str(error).split())}\n")
        return 2
    except Interrupted as interrupted:
        again = shlex.join(["blackprop", *_without_folder(arguments), "--run-dir", str(interrupted.path), "--resume"])
        sys.stderr.write(f"interrupted; what is finished is in {interrupted.path}. To go on:\n  {again}\n")
        return 130
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; nothing was begun\n")
        return 130
    return 0


def _parse(arguments: list[str]) -> Callable[[Console], None]:
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            return _by_tyro(arguments)
    except SystemExit as refusal:
        # tyro draws a box around the ValueError of an option's object; ours are told as all our errors are.
        cause: BaseException | None = refusal
        while cause is not None and not isinstance(cause, BlackpropError):
            cause = cause.__context__
        if cause is not None:
            raise cause from None
        if (odd := re.search(r"Unrecognized[^:]*options:[│\s]*([^\s,]+)", complaint.getvalue())) is not None:
            raise ArgumentError(_not_taken(arguments, odd[1])) from None
        sys.stderr.write(complaint.getvalue())
        raise


def _by_tyro(arguments: list[str]) -> Callable[[Console], None]:
    sequences = Annotated[CompareReservoirs, tyro.conf.subcommand("reservoir", description=CompareReservoirs.__doc__)]
    commands = {
        "train": _on_tasks(TrainCommand),
        "compare": _on_tasks(CompareCommand, sequences),
        "sweep": _on_tasks(SweepCommand),
        "price": _on_tasks(PriceCommand),
        "report": ReportCommand,
        "watch": WatchCommand,
        "check-device": CheckDevice,
        "characterise": Characterise,
        "deploy": Deploy,
        "serve": Serve,
        "keys": Keys,
    }
    assert commands.keys() == COMMANDS.keys()
    return tyro.extras.subcommand_cli_from_dict(commands, prog="blackprop", args=arguments, config=_CONFIG)


def _on_tasks(command: Any, *others: Any) -> Any:
    """The command as a function of one sub-command a task, and others beside them."""
    leaves = [
        Annotated[command[kind], tyro.conf.subcommand(kind().name, description=_paragraphs(kind))] for kind in TASKS
    ]

    def choose(run: Any) -> Any:
        return run

    choose.__annotations__ = {"run": Union[(*leaves, *others)]}
    choose.__doc__ = command.__doc__
    return choose


def _paragraphs(kind: type[Any]) -> str:
    """A docstring whose lines end where the terminal's do."""
    return "\n\n".join(" ".join(part.split()) for part in (inspect.getdoc(kind) or "").split("\n\n"))


def _not_taken(arguments: list[str], odd: str) -> str:
    """Return the message for an argument that the command does not take."""
    command = [part for part in arguments[: 2 if arguments[0] in TASKS_OF else 1] if not part.startswith("-")]
    told, called = io.StringIO(), shlex.join(["blackprop", *command])
    with contextlib.suppress(SystemExit), contextlib.redirect_stdout(told):
        _by_tyro([*command, "--help"])
    known = dict.fromkeys(re.findall(r"(?<![\w`-])--[a-z][a-z0-9-]*", told.getvalue()))
    help_of = f"`{called} --help` lists what it takes"
    if not odd.startswith("--"):
        return f"`{called}` takes no argument {odd!r}; {help_of}"
    try:
        resolve("option", odd, known)
    except UnknownName as error:
        hint = re.search(r"did you mean [^?]*\?", str(error))
        return f"`{called}` takes no option {odd}; {hint[0] + ' ' if hint else ''}{help_of}"
    return f"{odd} stands in the wrong place: options come after the names of command and task, as in `{called}`"


def _without_folder(arguments: list[str]) -> list[str]:
    """Return the arguments except those that name a run folder and its use."""
    kept, skip = [], False
    for argument in arguments:
        name, equals, _ = argument.partition("=")
        if not skip and name not in {"--resume", "--overwrite", "--run-dir"}:
            kept.append(argument)
        skip = name == "--run-dir" and not equals and not skip
    return kept


if __name__ == "__main__":
    sys.exit(main())
