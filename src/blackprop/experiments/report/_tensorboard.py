"""A TensorBoard log of a run, beside its other files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from blackprop._extras import install
from blackprop.errors import BlackpropError
from blackprop.experiments.engine._callbacks import Callback


class TensorBoardCallback(Callback):
    """A callback that writes scalars of every evaluation to `path/<method>.<device>.<seed>`. Show them with
    `tensorboard --logdir path`. A resumed run overwrites the steps that it repeats.
    """

    def __init__(self, path: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415  # an extra
        except ImportError as error:
            raise BlackpropError(f"TensorBoard logs need the extra `tensorboard`: {install('tensorboard')}") from error
        self.path, self._make = path, SummaryWriter
        self._writers: dict[str, Any] = {}

    def evaluated(self, line: Mapping[str, Any]) -> None:
        name = ".".join(str(line[part]) for part in ("method", "device", "seed"))
        if name not in self._writers:
            self._writers[name] = self._make(str(self.path / name), purge_step=line["step"])
        for tag, value in _scalars(line):
            self._writers[name].add_scalar(tag, value, line["step"])
        self._writers[name].flush()

    def finished(self, result: Mapping[str, Any]) -> None:
        for writer in self._writers.values():
            writer.close()
        self._writers.clear()


def _scalars(entry: Mapping[str, Any], above: str = "") -> list[tuple[str, float]]:
    """Return every number in a line of metrics, by its nested names."""
    found: list[tuple[str, float]] = []
    for name, value in entry.items():
        if isinstance(value, Mapping):
            found += _scalars(value, f"{above}{name}/")
        elif isinstance(value, int | float) and (above or name not in {"step", "seed"}):
            found.append((f"{above}{name}", float(value)))
    return found
