"""The field's own benchmarks: memory, parity, NARMA-10, two chaotic series, and a channel to be equalised."""

from __future__ import annotations

import abc
from dataclasses import InitVar, dataclass
from pathlib import Path

import torch
from torch import Tensor

from blackprop.errors import ArgumentError, DataError
from blackprop.experiments.records import _settings as settings
from blackprop.experiments.records._settings import called
from blackprop.experiments.tasks._objectives import Objective
from blackprop.experiments.tasks._task import Data
from blackprop.experiments.tasks.sequences import _capacity as capacity
from blackprop.experiments.tasks.sequences import _series as series
from blackprop.experiments.tasks.sequences._base import SequenceTask
from blackprop.experiments.tasks.sequences._networks import Sizes
from blackprop.experiments.tasks.sequences._objective import Capacity, Regression, Symbols

DRAWN = 0  # the seed of all that is drawn for a task


@dataclass(frozen=True)
class _Benchmark(SequenceTask, abc.ABC):
    """A value in and some out at every step; the first `washout` of each sequence are not read."""

    length: int = 200
    """Steps of a sequence, with the washout."""
    washout: int = 50
    """Steps at the start of a sequence in which the reservoir forgets its state before, and nothing is read."""
    train_sequences: int = 48
    test_sequences: int = 16

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.washout < self.length:
            raise ArgumentError(
                f"{called(self, 'washout')} must be less than the {self.length} steps of a sequence, got {self.washout}"
            )
        settings.at_least(self, test_sequences=1)
        if self.train_sequences < self.batch_size:
            raise ArgumentError(
                f"{called(self, 'train_sequences')} must fill a batch of {self.batch_size}, got {self.train_sequences}"
            )

    @property
    @abc.abstractmethod
    def _outputs(self) -> int: ...

    @abc.abstractmethod
    def _pairs(self) -> tuple[Tensor, Tensor]:
        """Inputs (N, steps) and targets (N, steps, outputs), those to train on first."""

    @property
    def sizes(self) -> Sizes:
        return Sizes(self.length, 1, self.drives, self.nodes, self._outputs, self.washout)

    def data(self) -> Data:
        x, y = self._pairs()
        x, y = x.unsqueeze(-1), y[:, self.washout :]
        return Data(
            x[: self.train_sequences], y[: self.train_sequences], x[self.train_sequences :], y[self.train_sequences :]
        )

    @property
    def _count(self) -> int:
        return self.train_sequences + self.test_sequences


@dataclass(frozen=True)
class Narma10(_Benchmark):
    """The next value of a nonlinear recurrence of tenth order, from its input."""

    @property
    def name(self) -> str:
        return "narma10"

    @property
    def _outputs(self) -> int:
        return 1

    @property
    def objective(self) -> Objective:
        return Regression()

    def _pairs(self) -> tuple[Tensor, Tensor]:
        u, y = series.narma10(self._count, self.length, torch.Generator().manual_seed(DRAWN))
        return u, y.unsqueeze(-1)


@dataclass(frozen=True)
class _Recall(_Benchmark, abc.ABC):
    """Random bits, and something of those before at every delay."""

    delays: int = 15
    """The longest delay in steps; the capacity is the sum over delays from 1."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.delays <= self.washout:
            raise ArgumentError(
                f"{called(self, 'delays')} must be between 1 and the {self.washout} steps of washout, got {self.delays}"
            )

    @property
    def _outputs(self) -> int:
        return self.delays

    @property
    def objective(self) -> Objective:
        return Capacity(tuple(map(str, range(1, self.delays + 1))))

    def _bits(self) -> Tensor:
        return series.bits(self._count, self.length, torch.Generator().manual_seed(DRAWN))


@dataclass(frozen=True)
class ShortTermMemory(_Recall):
    """The bit of k steps ago, k = 1 to `delays`: short-term-memory capacity."""

    @property
    def name(self) -> str:
        return "short-term-memory"

    def _pairs(self) -> tuple[Tensor, Tensor]:
        bits = self._bits()
        return bits, capacity.memory(bits, self.delays)


@dataclass(frozen=True)
class ParityCheck(_Recall):
    """The parity of the last k + 1 bits, k = 1 to `delays`: parity capacity."""

    delays: int = 6

    @property
    def name(self) -> str:
        return "parity"

    def _pairs(self) -> tuple[Tensor, Tensor]:
        bits = self._bits()
        return bits, capacity.parity(bits, self.delays)


@dataclass(frozen=True)
class ChannelEqualisation(_Benchmark):
    """The symbols that were sent through a nonlinear channel with echoes and noise, two steps late."""

    snr: float = 24.0
    """Signal to noise at the receiver, dB; published from 12 to 32."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not abs(self.snr) < float("inf"):
            raise ArgumentError(f"{called(self, 'snr')} must be finite, in dB, got {self.snr}")

    @property
    def name(self) -> str:
        return "channel"

    @property
    def _outputs(self) -> int:
        return 1

    @property
    def objective(self) -> Objective:
        return Symbols()

    def _pairs(self) -> tuple[Tensor, Tensor]:
        u, d = series.channel(self._count, self.length, self.snr, torch.Generator().manual_seed(DRAWN))
        return u, d.unsqueeze(-1)


@dataclass(frozen=True)
class _Prediction(_Benchmark, abc.ABC):
    """A series some steps ahead, for several horizons at once."""

    horizons: tuple[int, ...] = (1, 6, 21, 84)
    """Steps ahead; the error is their mean, and that of each horizon is told too."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.horizons or min(self.horizons) < 1 or len(set(self.horizons)) < len(self.horizons):
            raise ArgumentError(f"{called(self, 'horizons')} must be different steps from 1 on, got {self.horizons}")

    @property
    def _outputs(self) -> int:
        return len(self.horizons)

    @property
    def objective(self) -> Objective:
        return Regression(tuple(map(str, self.horizons)))

    @property
    def _window(self) -> int:
        """Of a window: the sequence and what lies ahead of its end."""
        return self.length + max(self.horizons)

    def _split(self, windows: Tensor) -> tuple[Tensor, Tensor]:
        """Windows (N, length) as inputs and targets."""
        steps = self.length
        return windows[:, :steps], torch.stack([windows[:, h : h + steps] for h in self.horizons], -1)

    def _windows(self, values: Tensor, source: Path) -> Tensor:
        """Windows of one series, each step read once: first those to train on, and those of its rest to test on."""
        stride = self.length - self.washout
        cut, wanted = ((count - 1) * stride + self._window for count in (self.train_sequences, self.test_sequences))
        if len(values) < cut + wanted:
            raise DataError(
                f"{source} holds {len(values)} values, and {self.train_sequences} sequences to train on with "
                f"{self.test_sequences} to test on take {cut + wanted}"
            )
        parts = values[:cut], values[cut : cut + wanted]
        return torch.cat([series.windows(part, self._window, stride) for part in parts])


@dataclass(frozen=True)
class MackeyGlass(_Prediction):
    """A delay equation of mild chaos, `tanh(x − 1)`, a value each unit of time."""

    from_file: bool = False
    """Whether the series is read, one value a line of mackey_glass_t17.csv; by default it is integrated."""
    # No field: where the file lies decides no result, so a run can be resumed with it elsewhere.
    data_dir: InitVar[Path | None] = None
    """The folder of the file, or one with series/."""

    def __post_init__(self, data_dir: Path | None) -> None:
        settings.keep_folder(self, data_dir)
        super().__post_init__()

    @property
    def name(self) -> str:
        return "mackey-glass"

    def _pairs(self) -> tuple[Tensor, Tensor]:
        given = settings.folder(self)
        if not self.from_file:
            drawn = torch.Generator().manual_seed(DRAWN)
            return self._split(series.mackey_glass(self._count, self._window, drawn))
        if given is None:
            raise DataError("give the folder of mackey_glass_t17.csv as `--data-dir`, or leave `--from-file` out")
        (path,) = _found(given, (("mackey_glass_t17.csv",),))
        return self._split(self._windows(series.read_series(path), path))


@dataclass(frozen=True)
class SantaFe(_Prediction):
    """The intensity of a chaotic far-infrared laser, 10,093 values of 8 bits, scaled to [0, 1]."""

    horizons: tuple[int, ...] = (1, 2, 5, 10)
    # No field: where the files lie decides no result, so a run can be resumed with them elsewhere.
    data_dir: InitVar[Path | None] = None
    """A folder, or one with series/, of the competition's A.dat and A.cont, or of santafe_laser.csv with both."""

    def __post_init__(self, data_dir: Path | None) -> None:
        settings.keep_folder(self, data_dir)
        super().__post_init__()

    @property
    def name(self) -> str:
        return "santa-fe"

    def _pairs(self) -> tuple[Tensor, Tensor]:
        given = settings.folder(self)
        if given is None:
            raise DataError(
                "the Santa Fe laser series is not downloaded on its own: get A.dat and A.cont of the Santa Fe time "
                "series competition and give their folder as `--data-dir`"
            )
        paths = _found(given, (("santafe_laser.csv",), ("A.dat", "A.cont")))
        values = torch.cat([series.read_series(path) for path in paths])
        if float(values.min()) < 0 or float(values.max()) > 255:
            raise DataError(f"{paths[0]} holds values outside 0 to 255, and the laser's are bytes")
        return self._split(self._windows(values / 255, paths[0]))


def _found(folder: Path, choices: tuple[tuple[str, ...], ...]) -> tuple[Path, ...]:
    """The files of the first choice that is whole in `folder` or in series/ inside it."""
    for names in choices:
        for place in (folder, folder / "series"):
            if all((place / name).is_file() for name in names):
                return tuple(place / name for name in names)
    wanted = " nor ".join(" with ".join(names) for names in choices)
    raise DataError(f"neither {folder} nor series in it holds {wanted}")
