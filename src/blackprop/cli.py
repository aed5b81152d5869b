"""The command `blackprop`: turns strings into objects, and errors into one line; nothing else.

Exit codes: 0 done, 2 refused (a `BlackpropError`, or arguments that cannot be read), 130 interrupted.
"""

from __future__ import annotations

import contextlib
import io
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Generic, TypeVar, Union

import torch

try:
    import tyro
    from rich.console import Console
except ModuleNotFoundError as error:
    raise SystemExit(f"the command line needs {error.name}: pip install 'blackprop[recipes]'") from error

import blackprop
from blackprop import __version__
from blackprop.compare_reservoirs import CompareReservoirs
from blackprop.devices import Device
from blackprop.errors import ArgumentError, BlackpropError
from blackprop.lab_commands import Keys, Serve, device_factory
from blackprop.recipes import (
    FLAWLESS,
    NOWHERE,
    ORDINARY,
    REMOTE,
    Characterised,
    Cifar10,
    Default,
    Digits,
    DirectFeedbackAlignment,
    Esc10,
    Esc50,
    Execution,
    Existing,
    FeedbackAlignment,
    FineWeb,
    Frozen,
    Grid,
    Hardware,
    Homodyne,
    Imperfections,
    Kind,
    Memory,
    Method,
    Mixed,
    Mnist,
    Multiplexed,
    Oracle,
    Paper,
    Perturbative,
    Remote,
    Row,
    SpeechDigits,
    Spsa,
    Task,
    Text,
    Twin,
    UrbanSound8K,
    Watches,
    carry_out,
    first_process,
    price,
    with_references,
)
from blackprop.report import Board, Progress, price_table, results_table, write_report
from blackprop.sweep import carry_out_by_ray


@dataclass(frozen=True)
class MethodOptions:
    """Settings of methods, wherever they are among them."""

    rank: int = 10
    """paper: rank of its surrogate; cut to what a device allows."""
    samples: int = 100
    """paper: directions a step, M."""
    count: int | None = None
    """memory, memory-row: new directions a step, in place of what suits the device."""


METHODS: dict[str, Callable[[MethodOptions], Method]] = {
    "oracle": lambda _: Oracle(),
    "frozen": lambda _: Frozen(),
    "paper": lambda options: Paper(rank=options.rank, samples=options.samples),
    "default": lambda _: Default(),
    "row": lambda _: Row(),
    "twin": lambda _: Twin(),
    "memory": lambda options: Memory(count=options.count),
    "memory-row": lambda options: Memory(count=options.count, row=True, name="memory-row"),
    "characterised": lambda _: Characterised(),
    "perturbative": lambda _: Perturbative(),
    "mixed": lambda _: Mixed(),
    "multiplexed": lambda _: Multiplexed(),
    "spsa": lambda _: Spsa(),
    "homodyne": lambda _: Homodyne(),
    "random-feedback": lambda _: FeedbackAlignment(),
    "direct-feedback": lambda _: DirectFeedbackAlignment(),
}
TASKS: tuple[type[Any], ...] = (Digits, Mnist, Cifar10, Esc10, Esc50, UrbanSound8K, SpeechDigits, Text, FineWeb)
DEVICES: dict[str, Callable[[Remote], Kind]] = {
    **{kind.value: lambda _, kind=kind: kind for kind in Hardware},
    REMOTE: lambda served: served,
}
if TYPE_CHECKING:
    MethodName = DeviceName = str
else:
    MethodName = tyro.extras.literal_type_from_choices(METHODS)
    DeviceName = tyro.extras.literal_type_from_choices(DEVICES)
SIMULATED = ("light-modulator", "microring")
TaskT = TypeVar("TaskT", bound=Task)


@dataclass(frozen=True)
class RunOptions:
    """Where the run is kept, and how it is carried out."""

    run_dir: Path | None = None
    """The run folder; by default runs/<task>-<time>."""
    resume: bool = False
    """Go on with the run in --run-dir, given the same options again."""
    overwrite: bool = False
    """Begin the run in --run-dir anew."""
    threads: int = 1
    """Threads of one operation; the small networks gain nothing from more."""
    tensorboard: bool = False
    """Keep TensorBoard's files in the run folder too."""

    def existing(self) -> Existing:
        if self.resume and self.overwrite:
            raise ArgumentError("`--resume` and `--overwrite` contradict each other; give one")
        if (self.resume or self.overwrite) and self.run_dir is None:
            raise ArgumentError("`--resume` and `--overwrite` need a `--run-dir`")
        return Existing.RESUME if self.resume else Existing.OVERWRITE if self.overwrite else Existing.REFUSE

    def carry_out(self, grid: Grid, console: Console, how: Callable[..., dict[str, Any]] = carry_out) -> None:
        """Run the grid, and show its table and where its files are."""
        existing, threads = self.existing(), torch.get_num_threads()
        path = self.run_dir or Path("runs") / f"{grid.task.name}-{datetime.now():%Y%m%d-%H%M%S}"
        if self.threads < 1:
            raise ArgumentError(f"`--threads` must be at least 1, got {self.threads}")
        torch.set_num_threads(self.threads)
        try:
            with Progress(console) as progress:
                board = (Board(path / "tensorboard"),) if self.tensorboard else ()
                summary = how(grid, path, Watches((progress, *board)), existing)
        except KeyboardInterrupt as interrupt:
            raise (_Interrupted(path) if path.exists() else interrupt) from None
        finally:
            torch.set_num_threads(threads)
        if first_process():
            console.print(results_table(summary))
            console.print(f"run folder: {path}", highlight=False, soft_wrap=True)


@dataclass(frozen=True)
class Train(Generic[TaskT]):
    """Train one network by one method on one device."""

    task: TaskT
    method: MethodName = "default"
    device: DeviceName = "light-modulator"
    remote: Remote = NOWHERE
    seed: int = 0
    options: MethodOptions = MethodOptions()
    imperfections: Imperfections = FLAWLESS
    execution: Execution = ORDINARY
    run: RunOptions = RunOptions()

    def __call__(self, console: Console) -> None:
        method = METHODS[self.method](self.options)
        grid = Grid(
            self.task, (method,), (DEVICES[self.device](self.remote),), (self.seed,), self.imperfections, self.execution
        )
        self.run.carry_out(grid, console)


@dataclass(frozen=True)
class Compare(Generic[TaskT]):
    """Train by several methods over devices and seeds; oracle and frozen are always among them."""

    task: TaskT
    methods: tuple[MethodName, ...] = ("oracle", "frozen", "paper", "default")
    devices: tuple[DeviceName, ...] = SIMULATED
    remote: Remote = NOWHERE
    seeds: int = 3
    """How many seeds: 0, 1, ..."""
    options: MethodOptions = MethodOptions()
    imperfections: Imperfections = FLAWLESS
    execution: Execution = ORDINARY
    run: RunOptions = RunOptions()

    def __call__(self, console: Console) -> None:
        self.run.carry_out(self.grid(), console)

    def grid(self) -> Grid:
        methods = with_references(METHODS[name](self.options) for name in self.methods)
        devices, seeds = tuple(DEVICES[name](self.remote) for name in self.devices), tuple(range(self.seeds))
        return Grid(self.task, methods, devices, seeds, self.imperfections, self.execution)


@dataclass(frozen=True)
class Sweep(Compare[TaskT]):
    """What compare does, its cells side by side in the workers of a Ray cluster; the same files, the same figures."""

    workers: int | None = None
    """CPUs of the cluster that is started on this machine, by default all; RAY_ADDRESS names one that is there."""
    gpus: float = 0.0
    """Of each cell; with 0 it is trained on the CPU."""

    def __call__(self, console: Console) -> None:
        self.run.carry_out(self.grid(), console, partial(carry_out_by_ray, workers=self.workers, gpus=self.gpus))


@dataclass(frozen=True)
class Price(Generic[TaskT]):
    """What one run of each method on each device would cost, without asking any device anything."""

    task: TaskT
    methods: tuple[MethodName, ...] = ("paper", "default")
    devices: tuple[DeviceName, ...] = SIMULATED
    remote: Remote = NOWHERE
    options: MethodOptions = MethodOptions()
    imperfections: Imperfections = FLAWLESS

    def __call__(self, console: Console) -> None:
        methods = tuple(METHODS[name](self.options) for name in self.methods)
        devices = tuple(DEVICES[name](self.remote) for name in self.devices)
        grid = Grid(self.task, methods, devices, imperfections=self.imperfections)
        data = grid.task.data()
        bills = {(cell.hardware.value, cell.method.name): price(cell, data).plain() for cell in grid.cells()}
        console.print(price_table(f"{grid.task.name}, one run of {grid.task.steps(len(data.x_train)):,} steps", bills))


@dataclass(frozen=True)
class CheckDevice:
    """Hold a device of yours to what it declares: the contract tests of blackprop.testing."""

    factory: tyro.conf.Positional[str]
    """package.module:factory, a function of no arguments that returns the device."""

    def __call__(self, console: Console) -> None:
        from blackprop.testing import check_device  # noqa: PLC0415  # what no other command needs

        console.print(str(check_device(_device(self.factory))), highlight=False, soft_wrap=True)


@dataclass(frozen=True)
class Characterise:
    """Find out what a device of yours is, by asking it alone, and write a report with a declaration of it."""

    factory: tyro.conf.Positional[str]
    """package.module:factory, a function of no arguments that returns the device."""
    rows: int | None = None
    """The most rows that may be asked; by default as many as it takes."""
    programmings: int | None = None
    """The most programmings that may be asked."""
    scale: float = 1.0
    """The root mean square of the entries of the rows that the device will be used with; three times that is tried."""
    output: Path | None = None
    """The folder for report.txt, report.json and report.html; by default only the text is printed."""

    def __call__(self, console: Console) -> None:
        from blackprop.characterise import characterise  # noqa: PLC0415  # what no other command needs
        from blackprop.ledger import Budget  # noqa: PLC0415

        budget = Budget(rows=self.rows, programmings=self.programmings)
        found = characterise(_device(self.factory), budget, scale=self.scale)
        console.print(str(found), highlight=False, soft_wrap=True, markup=False)
        if self.output is not None:
            console.print(found.save(self.output), highlight=False, soft_wrap=True, markup=False)


@dataclass(frozen=True)
class Report:
    """Write one self-contained page of what runs found: tables and charts that open offline."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """The run folders, side by side on the page."""
    output: Path = Path("report.html")
    """The file to write."""

    def __call__(self, console: Console) -> None:
        console.print(f"report: {write_report(self.runs, self.output)}", highlight=False, soft_wrap=True)


class _Interrupted(Exception):  # no error: the run stands, and can be resumed
    """Ctrl-C, once the run folder was there."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.path = path


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (by default the process's own) and return the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    console = Console(width=None if sys.stdout.isatty() else 100)
    if arguments == ["--version"]:
        console.print(f"blackprop {__version__}", highlight=False)
        return 0
    try:
        _parse(arguments)(console)
    except BlackpropError as error:
        sys.stderr.write(f"blackprop: {' '.join(str(error).split())}\n")
        return 2
    except _Interrupted as interrupted:
        again = shlex.join(["blackprop", *_without_folder(arguments), "--run-dir", str(interrupted.path), "--resume"])
        sys.stderr.write(f"interrupted; what is finished is in {interrupted.path}. To go on:\n  {again}\n")
        return 130
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; nothing was begun\n")
        return 130
    return 0


def _parse(arguments: list[str]) -> Callable[[Console], None]:
    sequences = Annotated[CompareReservoirs, tyro.conf.subcommand("reservoir", description=CompareReservoirs.__doc__)]
    commands = {
        "train": _on_tasks(Train),
        "compare": _on_tasks(Compare, sequences),
        "sweep": _on_tasks(Sweep),
        "price": _on_tasks(Price),
    }
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            return tyro.extras.subcommand_cli_from_dict(
                {
                    **commands,
                    "report": Report,
                    "check-device": CheckDevice,
                    "characterise": Characterise,
                    "serve": Serve,
                    "keys": Keys,
                },
                prog="blackprop",
                description=f"{blackprop.__doc__} `blackprop --version` tells the version, {__version__}.",
                args=arguments,
                config=(
                    tyro.conf.OmitArgPrefixes,
                    tyro.conf.OmitSubcommandPrefixes,
                    tyro.conf.EnumChoicesFromValues,
                    tyro.conf.FlagCreatePairsOff,
                ),
            )
    except SystemExit as refusal:
        # tyro draws a box around the ValueError of an option's object; ours are told as all our errors are.
        cause: BaseException | None = refusal
        while cause is not None and not isinstance(cause, BlackpropError):
            cause = cause.__context__
        if cause is not None:
            raise cause from None
        sys.stderr.write(complaint.getvalue())
        raise


def _on_tasks(command: Any, *others: Any) -> Any:
    """The command as a function of one sub-command a task, and others beside them."""
    leaves = [Annotated[command[kind], tyro.conf.subcommand(kind().name, description=kind.__doc__)] for kind in TASKS]

    def choose(run: Any) -> Any:
        return run

    choose.__annotations__ = {"run": Union[(*leaves, *others)]}
    choose.__doc__ = command.__doc__
    return choose


def _without_folder(arguments: list[str]) -> list[str]:
    """The arguments but for those that name a run folder and say what to do with it."""
    kept, skip = [], False
    for argument in arguments:
        name, equals, _ = argument.partition("=")
        if not skip and name not in {"--resume", "--overwrite", "--run-dir"}:
            kept.append(argument)
        skip = name == "--run-dir" and not equals and not skip
    return kept


def _device(name: str) -> Device:
    """The device that `package.module:factory` makes."""
    device = device_factory(name)()
    if not isinstance(device, Device):
        raise ArgumentError(f"{name} returned a {type(device).__name__}, not a `blackprop.Device`")
    return device


if __name__ == "__main__":
    sys.exit(main())
