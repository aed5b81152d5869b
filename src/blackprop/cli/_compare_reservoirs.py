"""The command `blackprop compare reservoir`."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import tyro
from rich.console import Console

from blackprop.errors import ArgumentError, DataError
from blackprop.experiments import (
    Default,
    Frozen,
    Homodyne,
    Method,
    Mixed,
    Multiplexed,
    Oracle,
    Perturbative,
    Size,
    Spsa,
    reservoirs,
)
from blackprop.experiments.report import reservoir_table
from blackprop_cli import UnknownName, resolve

METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        *(Oracle(), Frozen(), reservoirs.Readout(), Default(), reservoirs.LocalLinear(), reservoirs.DesignTwin()),
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
    networks: tuple[reservoirs.Architecture, ...] = (reservoirs.Architecture.DENSE,)
    """dense: Linear, reservoir, readout; transformer: encoder block, reservoir, encoder block, readout."""
    methods: tuple[MethodName, ...] = (
        *("oracle", "frozen", "ridge", "local-linear", "twin"),
        *("perturbative", "mixed", "multiplexed", "homodyne"),
    )
    devices: tuple[reservoirs.Reservoirs, ...] = (reservoirs.Reservoirs.ECHO_STATE,)
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
        tasks = self._chosen(console)
        methods, seeds = tuple(METHODS[name] for name in self.methods), tuple(range(self.seeds))
        grid = reservoirs.ReservoirGrid(tasks, methods, self.devices, self.batches, seeds, self.rates)
        torch.set_num_threads(1)

        def tell(result: dict[str, Any]) -> None:
            known, metric = result["metric"] in result, result["metric"]
            score = f"{result[metric]:.3f}" if known else f"not begun: {result.get('refused', 'for no known reason')}"
            cell = "  ".join(str(result[name]) for name in ("task", "network", "device", "method", "seed"))
            asked = f"{result['batches']} batches  rate {result['rate']:g}"
            console.print(f"{cell}  {asked}  {metric} {score}", highlight=False, soft_wrap=True)

        try:
            results = reservoirs.carry_out_reservoirs(grid, self.run_dir, tell)
        except KeyboardInterrupt:
            sys.stderr.write(f"interrupted; what is finished is in {self.run_dir}, and the same command goes on\n")
            raise SystemExit(130) from None
        console.print(reservoir_table(results))
        console.print(f"run folder: {self.run_dir}", highlight=False, soft_wrap=True)

    def _chosen(self, console: Console) -> tuple[reservoirs.SequenceTask, ...]:
        """The tasks that are named, each in every network; by default all for which there is data."""
        if self.data_dir is not None and not self.data_dir.is_dir():
            raise ArgumentError(f"`--data-dir {self.data_dir}` is not a folder")
        suite = [task for network in self.networks for task in reservoirs.suite(self.size, self.data_dir, network)]
        known = list(dict.fromkeys(task.name for task in suite))
        try:
            names = [resolve("task", name, known) for name in self.tasks]
        except UnknownName as error:
            more = "" if self.data_dir else "; more read files, and are known once --data-dir is given"
            raise ArgumentError(f"{error}{more}") from None
        if not names:
            names, lacking = _with_data(suite, known)
            for told in lacking:
                console.print(f"left out: {told}", highlight=False, soft_wrap=True)
        return tuple(task for name in dict.fromkeys(names) for task in suite if task.name == name)


def _with_data(suite: list[reservoirs.SequenceTask], names: list[str]) -> tuple[list[str], list[str]]:
    """The tasks that have their data, and of the others a sentence each."""
    found, lacking = [], []
    for name in names:
        try:
            next(task for task in suite if task.name == name).data()
            found.append(name)
        except DataError as error:
            lacking.append(f"{name} ({error})")
    return found, lacking
