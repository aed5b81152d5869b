"""The tasks that methods are compared on through one reservoir."""

from __future__ import annotations

from pathlib import Path

from blackprop.recipes.reservoir.base import SequenceTask
from blackprop.recipes.reservoir.classification import DigitRows, SpokenDigits
from blackprop.recipes.reservoir.tasks import (
    ChannelEqualisation,
    MackeyGlass,
    Narma10,
    ParityCheck,
    SantaFe,
    ShortTermMemory,
)
from blackprop.recipes.task import Size


def suite(size: Size, data_dir: Path | None = None) -> tuple[SequenceTask, ...]:
    """Published: 200 nodes and sequences of 200 steps; small: 50 nodes and 120 steps. Tasks that read files are among
    them where `data_dir` is given.
    """
    small = size is Size.SMALL
    nodes, length, washout = (50, 120, 40) if small else (200, 200, 50)
    drawn = (Narma10, ShortTermMemory, ParityCheck, ChannelEqualisation, MackeyGlass)
    tasks: list[SequenceTask] = [kind(nodes=nodes, length=length, washout=washout) for kind in drawn]
    tasks.append(DigitRows(nodes=nodes))
    if data_dir is not None:
        tasks += [
            SantaFe(nodes=nodes, length=length, washout=washout, data_dir=data_dir),
            SpokenDigits(nodes=nodes, train_takes=10 if small else 45, data_dir=data_dir),
        ]
    return tuple(tasks)
