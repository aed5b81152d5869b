"""The tasks on which methods are compared with one reservoir."""

from __future__ import annotations

from pathlib import Path

from blackprop.experiments.tasks._task import Size
from blackprop.experiments.tasks.sequences._base import SequenceTask
from blackprop.experiments.tasks.sequences._classification import DigitRows, Sequences, SpokenDigits, archived_in
from blackprop.experiments.tasks.sequences._networks import Architecture
from blackprop.experiments.tasks.sequences._tasks import (
    ChannelEqualisation,
    MackeyGlass,
    Narma10,
    ParityCheck,
    SantaFe,
    ShortTermMemory,
)


def suite(
    size: Size, data_dir: Path | None = None, network: Architecture = Architecture.DENSE
) -> tuple[SequenceTask, ...]:
    """Return the tasks of a size. Published: 200 nodes, sequences of 200 steps, transformers of width 32. Small: 50
    nodes, 120 steps, width 16. With `data_dir`, tasks with files are added: the laser, spoken digits, and every data
    set there in the format of the time series classification archive, under its own name.
    """
    small = size is Size.SMALL
    nodes, length, washout, width = (50, 120, 40, 16) if small else (200, 200, 50, 32)
    inside = {"network": network, "nodes": nodes, "width": width}
    drawn = (Narma10, ShortTermMemory, ParityCheck, ChannelEqualisation, MackeyGlass)
    tasks: list[SequenceTask] = [kind(**inside, length=length, washout=washout) for kind in drawn]
    tasks.append(DigitRows(**inside))
    if data_dir is not None:
        tasks += [
            SantaFe(**inside, length=length, washout=washout, data_dir=data_dir),
            SpokenDigits(**inside, train_takes=10 if small else 45, data_dir=data_dir),
        ]
        for name, count in archived_in(data_dir).items():
            batch = min(Sequences.batch_size, count or Sequences.batch_size)
            tasks.append(Sequences(**inside, dataset=name, batch_size=batch, data_dir=data_dir))
    return tuple(tasks)
