"""The command `blackprop compare reservoir`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import tyro
from rich.console import Console

from blackprop.errors import ArgumentError
from blackprop.recipes import (
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
    reservoir,
)
from blackprop.report import reservoir_table

METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        *(Oracle(), Frozen(), reservoir.Readout(), Default(), reservoir.LocalLinear(), reservoir.DesignTwin()),
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
    """Their names; by default all for which there is data."""
    networks: tuple[reservoir.Architecture, ...] = (reservoir.Architecture.DENSE,)
    """dense: Linear, reservoir, readout; transformer: encoder block, reservoir, encoder block, readout."""
    methods: tuple[MethodName, ...] = (
        *("oracle", "frozen", "ridge", "local-linear", "twin"),
        *("perturbative", "mixed", "multiplexed", "homodyne"),
    )
    devices: tuple[reservoir.Reservoirs, ...] = (reservoir.Reservoirs.ECHO_STATE,)
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
        suite = [task for network in self.networks for task in reservoir.suite(self.size, self.data_dir, network)]
        known = list(dict.fromkeys(task.name for task in suite))
        for name in self.tasks:
            if name not in known:
                raise ArgumentError(f"there is no task {name!r} here; there are {', '.join(known)}")
        chosen = self.tasks or known
        tasks = tuple(task for name in chosen for task in suite if task.name == name)
        methods, seeds = tuple(METHODS[name] for name in self.methods), tuple(range(self.seeds))
        grid = reservoir.ReservoirGrid(tasks, methods, self.devices, self.batches, seeds, self.rates)
        torch.set_num_threads(1)

        def tell(result: dict[str, Any]) -> None:
            score = f"{result[result['metric']]:.3f}" if result["metric"] in result else "not begun"
            cell = "  ".join(str(result[name]) for name in ("task", "network", "device", "method", "seed"))
            asked = f"{result['batches']} batches  rate {result['rate']:g}"
            console.print(f"{cell}  {asked}  {result['metric']} {score}", highlight=False, soft_wrap=True)

        console.print(reservoir_table(reservoir.carry_out_reservoirs(grid, self.run_dir, tell)))
        console.print(f"run folder: {self.run_dir}", highlight=False, soft_wrap=True)
