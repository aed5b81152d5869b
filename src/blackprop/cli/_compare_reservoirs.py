"""The command `blackprop compare reservoir`."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import tyro
from rich.console import Console

from blackprop.errors import ArgumentError, DataError
from blackprop.experiments.comparison._within import AllowanceGrid, compare_within
from blackprop.experiments.engine._callbacks import Callback
from blackprop.experiments.methods._by_loss import Homodyne, Mixed, Multiplexed, Perturbative, Spsa
from blackprop.experiments.methods._methods import Default, TrainingMethod
from blackprop.experiments.methods._references import FrozenReference, OracleReference
from blackprop.experiments.report._table import reservoir_table
from blackprop.experiments.reservoirs._by_surrogate import DesignTwin, LocalLinear
from blackprop.experiments.reservoirs._hardware import Reservoirs
from blackprop.experiments.reservoirs._readout import ReadoutAlone, refitted
from blackprop.experiments.tasks._task import Size
from blackprop.experiments.tasks.sequences._base import SequenceTask
from blackprop.experiments.tasks.sequences._networks import Architecture
from blackprop.experiments.tasks.sequences._suite import suite
from blackprop_cli import UnknownName, resolve

METHODS: dict[str, TrainingMethod] = {
    method.name: method
    for method in (
        *(OracleReference(), FrozenReference(), ReadoutAlone(), Default(), LocalLinear(), DesignTwin()),
        *(Perturbative(), Mixed(), Multiplexed(), Spsa(), Homodyne()),
    )
}
if TYPE_CHECKING:
    MethodName = str
else:
    MethodName = tyro.extras.literal_type_from_choices(METHODS)


@dataclass(frozen=True)
class CompareReservoirs:
    """Networks around a reservoir, by several methods at equal rows and programmings, on the field's own tasks."""

    size: Size = Size.SMALL
    """published: 200 nodes and sequences of 200 steps; small: 50 nodes and 120 steps."""
    tasks: tuple[str, ...] = ()
    """Their names; by default all for which there is data. A data set of the time series classification archive goes by
    its own name: JapaneseVowels is the files JapaneseVowels_TRAIN.ts and JapaneseVowels_TEST.ts in --data-dir."""
    networks: tuple[Architecture, ...] = (Architecture.DENSE,)
    """dense: Linear, reservoir, readout; transformer: encoder block, reservoir, encoder block, readout."""
    methods: tuple[MethodName, ...] = (
        *("oracle", "frozen", "ridge", "local-linear", "twin"),
        *("perturbative", "mixed", "multiplexed", "homodyne"),
    )
    devices: tuple[Reservoirs, ...] = (Reservoirs.ECHO_STATE,)
    batches: tuple[int, ...] = (30, 300)
    """What training may ask of the device, in batches of the task: as many programmings, and the rows of as many."""
    rates: tuple[float, ...] = ()
    """Learning rates to choose from, by the score of the first seed; by default the task's own."""
    seeds: int = 1
    """How many seeds: 0, 1, ..."""
    data_dir: Path | None = None
    """The folder of the series and recordings that some tasks read."""
    run_dir: Path = Path("runs/reservoir")
    """The folder that keeps the results; what it holds already is not run again."""

    def __call__(self, console: Console) -> None:
        methods, seeds = tuple(METHODS[name] for name in self.methods), tuple(range(self.seeds))
        grids = [
            AllowanceGrid(task, refitted(task, methods), self.devices, self.batches, seeds, self.rates)
            for task in self._chosen(console)
        ]
        torch.set_num_threads(1)
        try:
            results = [found for grid in grids for found in compare_within(grid, self.run_dir, _OneLine(console))]
        except KeyboardInterrupt:
            sys.stderr.write(f"interrupted; what is finished is in {self.run_dir}, and the same command goes on\n")
            raise SystemExit(130) from None
        console.print(reservoir_table(results))
        console.print(f"run folder: {self.run_dir}", highlight=False, soft_wrap=True)

    def _chosen(self, console: Console) -> tuple[SequenceTask, ...]:
        """The tasks that are named, each in every network; by default all for which there is data."""
        if self.data_dir is not None and not self.data_dir.is_dir():
            raise ArgumentError(f"`--data-dir {self.data_dir}` is not a folder")
        known_tasks = [task for network in self.networks for task in suite(self.size, self.data_dir, network)]
        known = list(dict.fromkeys(task.name for task in known_tasks))
        try:
            names = [resolve("task", name, known) for name in self.tasks]
        except UnknownName as error:
            more = "" if self.data_dir else "; more read files, and are known once --data-dir is given"
            raise ArgumentError(f"{error}{more}") from None
        if not names:
            names, lacking = _with_data(known_tasks, known)
            for told in lacking:
                console.print(f"left out: {told}", highlight=False, soft_wrap=True)
        return tuple(task for name in dict.fromkeys(names) for task in known_tasks if task.name == name)


@dataclass(frozen=True)
class _OneLine(Callback):
    """A callback that prints one line a result."""

    console: Console

    def finished(self, result: Mapping[str, Any]) -> None:
        known, metric = result["metric"] in result, result["metric"]
        score = f"{result[metric]:.3f}" if known else f"not begun: {result.get('refused', 'for no known reason')}"
        trial = "  ".join(str(result[name]) for name in ("task", "network", "device", "method", "seed"))
        asked = f"{result['batches']} batches  rate {result['rate']:g}"
        self.console.print(f"{trial}  {asked}  {metric} {score}", highlight=False, soft_wrap=True)


def _with_data(suite: list[SequenceTask], names: list[str]) -> tuple[list[str], list[str]]:
    """The tasks that have their data, and of the others a sentence each."""
    found, lacking = [], []
    for name in names:
        try:
            next(task for task in suite if task.name == name).data()
            found.append(name)
        except DataError as error:
            lacking.append(f"{name} ({error})")
    return found, lacking
