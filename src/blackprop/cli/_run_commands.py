"""The commands `blackprop train`, `compare`, `sweep` and `price`, and `report`, which shows their results."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Generic, TypeVar

import torch
import tyro
from rich.console import Console

from blackprop.errors import ArgumentError, BlackpropError
from blackprop.experiments.comparison._compare import compare
from blackprop.experiments.comparison._grid import Grid, with_references
from blackprop.experiments.comparison._sweep import sweep
from blackprop.experiments.engine._callbacks import Callbacks
from blackprop.experiments.engine._execution import ORDINARY, Execution, first_process
from blackprop.experiments.engine._hardware import FLAWLESS, NOWHERE, REMOTE, Hardware, Imperfections, Kind, Remote
from blackprop.experiments.engine._live import LiveCallback
from blackprop.experiments.engine._price import price
from blackprop.experiments.methods._by_feedback import DirectFeedbackAlignment, FeedbackAlignment
from blackprop.experiments.methods._by_loss import Homodyne, Mixed, Multiplexed, Perturbative, Spsa
from blackprop.experiments.methods._by_pulses import PULSED_METHODS, TrainedByPulses
from blackprop.experiments.methods._methods import (
    Characterised,
    Default,
    FittedTwin,
    Memory,
    Paper,
    Planned,
    Row,
    TrainingMethod,
)
from blackprop.experiments.methods._references import FrozenReference, OracleReference
from blackprop.experiments.records._run_folder import Existing, RunFolder
from blackprop.experiments.report import write_report
from blackprop.experiments.report._progress import Progress
from blackprop.experiments.report._table import price_table, results_table
from blackprop.experiments.report._tensorboard import TensorBoardCallback
from blackprop.experiments.report._watch import PORT, Watch
from blackprop.experiments.tasks._digits import Digits
from blackprop.experiments.tasks._mnist import Mnist
from blackprop.experiments.tasks._task import Task
from blackprop.experiments.tasks.audio._tasks import Esc10, Esc50, SpeechDigits, UrbanSound8K
from blackprop.experiments.tasks.language._tasks import FineWeb, Text
from blackprop.experiments.tasks.vision._cifar10 import Cifar10
from blackprop.planning import CANDIDATES


@dataclass(frozen=True)
class MethodOptions:
    """Settings of the methods that are named; others pass them by."""

    rank: int = 10
    """paper: rank of its surrogate; cut to what a device allows."""
    samples: int = 100
    """paper: directions a step, M."""
    count: int | None = None
    """memory, memory-row: new directions a step, in place of what suits the device."""


METHODS: dict[str, Callable[[MethodOptions], TrainingMethod]] = {
    # The plan's table, by name; of the same names, those below are the references.
    **{candidate.name: lambda _, name=candidate.name: Planned(name) for candidate in CANDIDATES},
    **{name: lambda _, name=name: TrainedByPulses(name) for name in PULSED_METHODS},
    "oracle": lambda _: OracleReference(),
    "frozen": lambda _: FrozenReference(),
    "paper": lambda options: Paper(rank=options.rank, samples=options.samples),
    "default": lambda _: Default(),
    "row": lambda _: Row(),
    "twin": lambda _: FittedTwin(),
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

    def carry_out(self, grid: Grid, console: Console, how: Callable[..., dict[str, Any]] = compare) -> None:
        """Run the grid, and show its table and where its files are."""
        existing, threads = self.existing(), torch.get_num_threads()
        path = self.run_dir or Path("runs") / f"{grid.task.name}-{datetime.now():%Y%m%d-%H%M%S}"
        if self.threads < 1:
            raise ArgumentError(f"`--threads` must be at least 1, got {self.threads}")
        torch.set_num_threads(self.threads)
        try:
            follow = LiveCallback(path, grid.allowance, go_on=existing is Existing.RESUME)
            with Progress(console, *self._trials(grid, path)) as progress, follow as live:
                others = (TensorBoardCallback(path / "tensorboard"),) if self.tensorboard else ()
                summary = how(grid, path, Callbacks((progress, live, *others)), existing)
        except KeyboardInterrupt as interrupt:
            raise (Interrupted(path) if path.exists() else interrupt) from None
        finally:
            torch.set_num_threads(threads)
        if first_process():
            console.print(results_table(summary))
            console.print(f"run folder: {path}", highlight=False, soft_wrap=True)

    def _trials(self, grid: Grid, path: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """The trials of the run, and those that are finished already."""
        trials = [trial.key for trial in grid.trials()]
        if not self.resume:
            return trials, []
        try:
            return trials, (RunFolder(path).summary() or {"results": []})["results"]
        except BlackpropError:  # it is told where the run is carried out
            return trials, []


class Interrupted(Exception):  # no error: the run stands, and can be resumed
    """Ctrl-C, once the run folder was there."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.path = path


@dataclass(frozen=True)
class TrainCommand(Generic[TaskT]):
    """Train one network by one method on one device."""

    task: TaskT
    method: MethodName = "default"
    """How the devices are trained; `default` is a layer without further arguments."""
    device: DeviceName = "light-modulator"
    """The kind of device, simulated; remote is one that `blackprop serve` serves."""
    remote: Remote = NOWHERE
    seed: int = 0
    """Of weights, settings, the order of the rows, noise and hidden errors."""
    options: Annotated[MethodOptions, tyro.conf.arg(name="method")] = MethodOptions()
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
class CompareCommand(Generic[TaskT]):
    """Train by several methods over devices and seeds; oracle and frozen are always among them."""

    task: TaskT
    methods: tuple[MethodName, ...] = ("oracle", "frozen", "paper", "default")
    """How the devices are trained; `default` is a layer without further arguments."""
    devices: tuple[DeviceName, ...] = SIMULATED
    """The kinds of device, simulated; remote is one that `blackprop serve` serves."""
    remote: Remote = NOWHERE
    seeds: int = 3
    """How many seeds: 0, 1, ..."""
    jobs: int = 1
    """Runs at a time, each in a process of its own; the figures are the same."""
    options: Annotated[MethodOptions, tyro.conf.arg(name="method")] = MethodOptions()
    imperfections: Imperfections = FLAWLESS
    execution: Execution = ORDINARY
    run: RunOptions = RunOptions()

    def __call__(self, console: Console) -> None:
        if self.jobs < 1:
            raise ArgumentError(f"`--jobs` must be at least 1, got {self.jobs}")
        self.run.carry_out(self.grid(), console, partial(compare, jobs=self.jobs))

    def grid(self) -> Grid:
        methods = with_references(METHODS[name](self.options) for name in self.methods)
        devices, seeds = tuple(DEVICES[name](self.remote) for name in self.devices), tuple(range(self.seeds))
        return Grid(self.task, methods, devices, seeds, self.imperfections, self.execution)


@dataclass(frozen=True)
class SweepCommand(CompareCommand[TaskT]):
    """Run the trials of `compare` in parallel in the workers of a Ray cluster, with the same files and figures."""

    workers: int | None = None
    """CPUs of the cluster that is started on this machine, by default all; RAY_ADDRESS names one that is there."""
    gpus: float = 0.0
    """Of each trial; with 0 it is trained on the CPU."""

    def __call__(self, console: Console) -> None:
        self.run.carry_out(self.grid(), console, partial(sweep, workers=self.workers, gpus=self.gpus))


@dataclass(frozen=True)
class PriceCommand(Generic[TaskT]):
    """Print the price of one run of each method on each device, without measurements."""

    task: TaskT
    methods: tuple[MethodName, ...] = ("paper", "default")
    """How the devices would be trained."""
    devices: tuple[DeviceName, ...] = SIMULATED
    """The kinds of device."""
    remote: Remote = NOWHERE
    options: Annotated[MethodOptions, tyro.conf.arg(name="method")] = MethodOptions()
    imperfections: Imperfections = FLAWLESS

    def __call__(self, console: Console) -> None:
        methods = tuple(METHODS[name](self.options) for name in self.methods)
        devices = tuple(DEVICES[name](self.remote) for name in self.devices)
        grid = Grid(self.task, methods, devices, imperfections=self.imperfections)
        data = grid.task.data()
        bills = {(one.hardware.value, one.method.name): price(one, data).plain() for one in grid.trials()}
        console.print(price_table(f"{grid.task.name}, one run of {grid.task.steps(len(data.x_train)):,} steps", bills))


@dataclass(frozen=True)
class ReportCommand:
    """Write one self-contained page of the results of runs: tables and charts that open offline."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """The run folders, side by side on the page."""
    output: Path = Path("report.html")
    """The file to write."""

    def __call__(self, console: Console) -> None:
        console.print(f"report: {write_report(self.runs, self.output)}", highlight=False, soft_wrap=True)


@dataclass(frozen=True)
class WatchCommand:
    """Serve one page that follows runs while they run: losses, costs against budgets, health of devices, warnings."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """The run folders, of commands and of `RunMonitor`, side by side on the page. They may begin later."""
    host: str = "127.0.0.1"
    """The address to listen at. Another one than that of this machine alone is given a key, which is in the link."""
    port: int = PORT
    """The port; 0 for any free one."""

    def __call__(self, console: Console) -> None:
        with Watch(self.runs, self.host, self.port) as page:
            console.print(f"watching at {page.address} (Ctrl-C ends it)", highlight=False, soft_wrap=True)
            with contextlib.suppress(KeyboardInterrupt):
                page.serve()
