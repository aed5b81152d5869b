"""The command line as it was meant: names in any spelling, singular options for plural ones and the other way round."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from blackprop.cli import _compare_reservoirs, _run_commands
from blackprop.errors import ArgumentError
from blackprop.experiments import reservoirs
from blackprop_cli import ALIASES, COMMANDS, UnknownName, resolve

_TASKS = [kind().name for kind in _run_commands.TASKS]
TASKS_OF = {"train": _TASKS, "compare": [*_TASKS, "reservoir"], "sweep": _TASKS, "price": _TASKS}
"""The commands that take a task, and their tasks."""
_ONE_OF_EACH = "train"  # the command that takes one device, one method and the number of one seed
_OTHERS = {"slm": "light-modulator", "mzi": "mzi-mesh", "mrr": "microring", "pcm": "crossbar"}


def understood(arguments: list[str]) -> list[str]:
    """The arguments with each name of a command, task, device and method as it is written here.

    `ArgumentError` for a name that there is none of, with those nearest to it.
    """
    try:
        return _understood(arguments)
    except UnknownName as error:
        raise ArgumentError(str(error)) from None


def _understood(arguments: list[str]) -> list[str]:
    name, *rest = arguments
    if name.startswith("-"):
        return arguments
    command = resolve("command", name, COMMANDS, ALIASES)
    if command not in TASKS_OF:
        return [command, *rest]
    if not rest or rest[0].startswith("-"):
        if rest and rest[0] not in {"-h", "--help"}:
            listed = ", ".join(TASKS_OF[command])
            raise ArgumentError(f"the task comes first: blackprop {command} TASK {rest[0]} ...; tasks: {listed}")
        return [command, *rest]
    task = resolve("task", rest[0], TASKS_OF[command])
    return [command, task, *_options(command, task, rest[1:])]


def _options(command: str, task: str, given: list[str]) -> list[str]:
    found, names_of = [], _names(task)
    current: Callable[[str], str] | None = None  # maps a value to the name that is meant
    for argument in given:
        option, equals, value = argument.partition("=")
        if not option.startswith("--"):
            found.append(argument if current is None or argument.startswith("-") else current(argument))
            continue
        option = _called(command, option)
        what = option[2:].removesuffix("s")
        known = names_of.get(what)
        current = None if known is None else _meant(what, known)
        found.append(f"{option}={current(value) if current else value}" if equals else option)
    if command == _ONE_OF_EACH:
        _check_single(found)
    return found


def _names(task: str) -> dict[str, Iterable[str]]:
    if task == "reservoir":
        return {"device": [kind.value for kind in reservoirs.Reservoirs], "method": _compare_reservoirs.METHODS}
    return {"device": _run_commands.DEVICES, "method": _run_commands.METHODS}


def _meant(what: str, known: Iterable[str]) -> Callable[[str], str]:
    return lambda value: resolve(what, value, known, _OTHERS)


def _called(command: str, option: str) -> str:
    """The option as the command calls it."""
    single = option.removesuffix("s")
    if single in {"--device", "--method"}:
        return single if command == _ONE_OF_EACH else f"{single}s"
    if option == "--seed" and command in {"compare", "sweep"}:
        raise ArgumentError(
            f"`{command}` takes --seeds, how many seeds there are: 0, 1, ...; `blackprop train` takes the number of one"
        )
    if option == "--seeds" and command == _ONE_OF_EACH:
        raise ArgumentError("`train` takes --seed, the number of one seed; several are compared by `blackprop compare`")
    return option


def _check_single(arguments: list[str]) -> None:
    for place, argument in enumerate(arguments):
        if argument in {"--device", "--method"}:
            values = [each for each in arguments[place + 1 : place + 3] if not each.startswith("-")]
            if len(values) > 1:
                raise ArgumentError(
                    f"`train` takes one {argument[2:]}, got {' and '.join(values)}; `blackprop compare` takes several"
                )
