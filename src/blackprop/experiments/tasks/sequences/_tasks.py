"""Standard benchmarks of reservoirs: memory, parity, NARMA-10, two chaotic series, and channel equalisation."""

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

DRAWN = 0  # the seed of the random numbers of a task


@dataclass(frozen=True)
class _Benchmark(SequenceTask, abc.ABC):
    """A task with one input and several outputs at every step. The first `washout` steps of a sequence are not used."""

    length: int = 200
    """Steps of a sequence, including the washout."""
    washout: int = 50
    """Steps at the start of a sequence in which the reservoir forgets its earlier state. Their states are not used."""
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
        """Return inputs (N, steps) and targets (N, steps, outputs), with the training sequences first."""

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
    """The next value of NARMA-10, a nonlinear recurrence of tenth order, from its input."""

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
    """Random bits, and a function of earlier bits for every delay."""

    delays: int = 15
    """Longest delay in steps. The capacity is the sum over the delays from 1 to this."""

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
    """Short-term-memory capacity: the bit k steps ago, k = 1 to `delays`."""

    @property
    def name(self) -> str:
        return "short-term-memory"

    def _pairs(self) -> tuple[Tensor, Tensor]:
        bits = self._bits()
        return bits, capacity.memory(bits, self.delays)


@dataclass(frozen=True)
class ParityCheck(_Recall):
    """Parity capacity: the parity of the last k + 1 bits, k = 1 to `delays`."""

    delays: int = 6

    @property
    def name(self) -> str:
        return "parity"

    def _pairs(self) -> tuple[Tensor, Tensor]:
        bits = self._bits()
        return bits, capacity.parity(bits, self.delays)


@dataclass(frozen=True)
class ChannelEqualisation(_Benchmark):
    """The symbols sent through a nonlinear channel with echoes and noise, two steps later."""

    snr: float = 24.0
    """Signal to noise ratio at the receiver in dB; published from 12 to 32."""

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
    """The prediction of a series for several horizons."""

    horizons: tuple[int, ...] = (1, 6, 21, 84)
    """Steps ahead. The score is the mean error over the horizons; the error of each horizon is reported too."""

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
        """The length of a window: the sequence and the steps up to the longest horizon."""
        return self.length + max(self.horizons)

    def _split(self, windows: Tensor) -> tuple[Tensor, Tensor]:
        """Split windows (N, length) into inputs and targets."""
        steps = self.length
        return windows[:, :steps], torch.stack([windows[:, h : h + steps] for h in self.horizons], -1)

    def _windows(self, values: Tensor, source: Path) -> Tensor:
        """Return training windows and then test windows of one series, in which only the washout overlaps."""
        stride = self.length - self.washout
        cut, wanted = ((count - 1) * stride + self._window for count in (self.train_sequences, self.test_sequences))
        if len(values) < cut + wanted:
            raise DataError(
                f"{source} holds {len(values)} values, but {self.train_sequences} training sequences and "
                f"{self.test_sequences} test sequences take {cut + wanted}"
            )
        parts = values[:cut], values[cut : cut + wanted]
        return torch.cat([series.windows(part, self._window, stride) for part in parts])


@dataclass(frozen=True)
class MackeyGlass(_Prediction):
    """The Mackey-Glass delay equation, mildly chaotic: `tanh(x − 1)`, one value per unit of time."""

    from_file: bool = False
    """Read the series from mackey_glass_t17.csv, one value per line. By default it is integrated."""
    # Not a field: the folder does not affect results, so a run can be resumed with the file in another folder.
    data_dir: InitVar[Path | None] = None
    """Folder of the file, or a folder with series/ that contains it."""

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
            raise DataError("give the folder of mackey_glass_t17.csv as `--data-dir`, or do not use `--from-file`")
        (path,) = _found(given, (("mackey_glass_t17.csv",),))
        return self._split(self._windows(series.read_series(path), path))


@dataclass(frozen=True)
class SantaFe(_Prediction):
    """The intensity of a chaotic far-infrared laser, 10,093 values of 8 bits, scaled to [0, 1]."""

    horizons: tuple[int, ...] = (1, 2, 5, 10)
    # Not a field: the folder does not affect results, so a run can be resumed with the files in another folder.
    data_dir: InitVar[Path | None] = None
    """Folder of A.dat and A.cont of the competition, or of santafe_laser.csv with both series; or a folder with series/
    that contains them."""

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
                "the Santa Fe laser series cannot be downloaded automatically: get A.dat and A.cont of the Santa Fe "
                "time series competition and give their folder as `--data-dir`"
            )
        paths = _found(given, (("santafe_laser.csv",), ("A.dat", "A.cont")))
        values = torch.cat([series.read_series(path) for path in paths])
        if float(values.min()) < 0 or float(values.max()) > 255:
            raise DataError(f"{paths[0]} holds values outside 0 to 255, but those of the laser are bytes")
        return self._split(self._windows(values / 255, paths[0]))


def _found(folder: Path, choices: tuple[tuple[str, ...], ...]) -> tuple[Path, ...]:
    """Return the files of the first choice that is complete in `folder` or in series/ inside it."""
    for names in choices:
        for place in (folder, folder / "series"):
            if all((place / name).is_file() for name in names):
                return tuple(place / name for name in names)
    wanted = " nor ".join(" with ".join(names) for names in choices)
    raise DataError(f"neither {folder} nor series in it holds {wanted}")
