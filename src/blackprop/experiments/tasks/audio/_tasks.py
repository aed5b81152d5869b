"""Sounds classified by ECAPA-TDNN with a device as embedding: environmental sounds, street sounds, spoken digits."""

from __future__ import annotations

import abc
from dataclasses import InitVar, dataclass, replace
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.optim import Adam
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR

from blackprop.errors import ArgumentError
from blackprop.experiments.records import _settings as settings
from blackprop.experiments.tasks._epochs import adam_with_cosine
from blackprop.experiments.tasks._objectives import Objective
from blackprop.experiments.tasks._task import Data, MakeLayer, Schedules, Size
from blackprop.experiments.tasks.audio._angular_margin import AngularMargin
from blackprop.experiments.tasks.audio._augmentation import COPIES, corrupted
from blackprop.experiments.tasks.audio._clips import (
    Collected,
    esc,
    folder_with,
    spoken_digits,
    spoken_digits_folder,
    urban_sound,
)
from blackprop.experiments.tasks.audio._ecapa import Ecapa, Widths
from blackprop.nn._substitute import param_groups

FOLDS = 5  # of ESC-50
WEIGHT_DECAY = 2e-6
HALF_PERIOD, LOWEST = 65_000, 1e-5  # steps in which the cyclic rate rises or falls; lowest rate relative to the highest


@dataclass(frozen=True)
class AudioPreset:
    """The default settings of a size."""

    widths: Widths
    rate: int  # Hz
    trained_convolutions: bool
    augmented: bool
    epochs: int
    batch_size: int
    lr: float
    device_lr: float


_SETTINGS = ("trained_convolutions", "augmented", "epochs", "batch_size", "lr", "device_lr")
_PUBLISHED = AudioPreset(Widths(), 16_000, True, True, 50, 64, 1e-3, 1e-2)
_SMALL = AudioPreset(Widths(40, 32, 48, 16, 32), 16_000, False, False, 4, 64, 3e-3, 3e-2)


@dataclass(frozen=True)
class _Audio(abc.ABC):
    """The common parts of sound tasks: the network, its size and its training."""

    size: Size = Size.SMALL
    """published: device 6144→192 behind 1024 trained channels, 80 bands, for a GPU. small: device 96→32 behind 32
    random channels that are not trained, 40 bands, for two CPU cores. Its score depends on the device."""
    trained_convolutions: bool | None = None
    """Whether the convolutions before the device are trained. By default yes, or no at the small size."""
    augmented: bool | None = None
    """Whether four corrupted copies of every clip are added to its batch, which becomes five times as large. By default
    yes, or no at the small size."""
    epochs: int | None = None
    """Passes over the training clips. By default 50, or 10 (ESC-10), 4 (ESC-50), 2 (UrbanSound8K), 6 (digits) at the
    small size."""
    batch_size: int | None = None
    """Clips per step. Clips that do not fill a batch are left out of the epoch. By default 64, or 32 with ESC-10 at the
    small size."""
    lr: float | None = None
    """Adam's rate for the digital parameters. By default 1e-3, the highest rate of the published cycle, or 3e-3 with
    cosine decay at the small size."""
    device_lr: float | None = None
    """Adam's rate for the settings of the devices, with cosine decay to zero over the run. By default 1e-2, or 3e-2 at
    the small size."""
    # Not a field: the folder does not affect results, so a run can be resumed with the files in another folder.
    data_dir: InitVar[Path | None] = None
    """Folder of the published collection, or a folder that contains it."""

    _seconds: ClassVar[float]  # of a clip
    _classes: ClassVar[int]
    _small: ClassVar[AudioPreset]

    def __post_init__(self, data_dir: Path | None) -> None:
        settings.keep_folder(self, data_dir)
        settings.resolve(self, self._preset, _SETTINGS)
        settings.at_least(self, epochs=1, batch_size=2)  # batch norm needs two rows
        settings.rates(self, "lr", "device_lr")

    @property
    @abc.abstractmethod
    def name(self) -> str: ...

    @property
    def objective(self) -> Objective:
        return AngularMargin()

    @abc.abstractmethod
    def data(self) -> Data:
        """Return the clips, the same for every seed: int16, with averaged channels, cut at the end or filled with
        silence. Raises `DataError` if files are missing or damaged.
        """

    def steps(self, rows: int) -> int:
        return self._settings.epochs * self.segment(rows)

    def segment(self, rows: int) -> int:
        """Return the steps of one epoch."""
        return rows // self._settings.batch_size

    def build(self, layer: MakeLayer, seed: int) -> nn.Module:
        """Build ECAPA-TDNN with `layer(2 · aggregated, embedding)` as its embedding. The digital weights depend only on
        `seed`.
        """
        # The initialisers of torch draw from the global generator, which is restored afterwards.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = Ecapa(self._preset.rate, self._classes, self._preset.widths, layer)
        if not self._settings.trained_convolutions:
            model.freeze_convolutions()
        return model

    def augment(self, x: Tensor, y: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return the clips unchanged or, if `augmented`, with four corrupted copies of each (see `_augmentation`)."""
        if not self._settings.augmented:
            return x, y
        return corrupted(x, self._preset.rate, generator), y.repeat(1 + COPIES)

    def optimizers(self, model: nn.Module, steps: int) -> Schedules:
        """Return Adam with cosine decay for all parameters. At the published size, the digital parameters have a weight
        decay of 2e-6 and a cyclic rate, from 1e-8 to 1e-3 and back, 65,000 steps each way.
        """
        given = self._settings
        if self.size is Size.SMALL:
            return adam_with_cosine(model, given.lr, given.device_lr, steps)
        groups = param_groups(model, lr=given.lr, device_lr=given.device_lr)
        digital, devices = groups[:2], groups[2:]  # weights, gains; θ
        adam = Adam(digital, weight_decay=WEIGHT_DECAY)
        schedules: Schedules = [(adam, LambdaLR(adam, _cyclic))]
        if devices:
            theta = Adam(devices)
            schedules.append((theta, CosineAnnealingLR(theta, T_max=steps)))
        return schedules

    @property
    def _preset(self) -> AudioPreset:
        return _PUBLISHED if self.size is Size.PUBLISHED else self._small

    @property
    def _settings(self) -> AudioPreset:
        """The preset, with the given settings in place of its own."""
        return replace(self._preset, **{name: getattr(self, name) for name in _SETTINGS})

    def _split(self, found: Collected, train: set[int], test: set[int]) -> Data:
        rate, batch = self._preset.rate, self._settings.batch_size
        split = found.split(train, test, rate, round(self._seconds * rate))
        if len(split.x_train) < batch:
            raise ArgumentError(
                f"`{type(self).__name__}(batch_size=...)` must be at most the {len(split.x_train)} training clips of "
                f"{found.source}, got {batch}"
            )
        return split


@dataclass(frozen=True)
class _Esc(_Audio):
    fold: int = 5
    """Test fold, 1 to 5. The other four folds are for training."""

    _seconds = 5.0

    def __post_init__(self, data_dir: Path | None) -> None:
        super().__post_init__(data_dir)
        settings.between(self, "fold", 1, FOLDS)

    def data(self) -> Data:
        folder = folder_with(
            self.name,
            settings.folder(self),
            ("ESC-50", "ESC-50-master"),
            "meta/esc50.csv",
            "https://github.com/karolpiczak/ESC-50",
        )
        train = set(range(1, FOLDS + 1)) - {self.fold}
        return self._split(esc(folder, self._classes), train, {self.fold})


@dataclass(frozen=True)
class Esc10(_Esc):
    """Environmental sounds in the ten classes of ESC-10, a part of ESC-50: 400 clips of 5 s, in five folds."""

    _classes = 10
    _small = replace(_SMALL, epochs=10, batch_size=32)

    @property
    def name(self) -> str:
        return "esc10"


@dataclass(frozen=True)
class Esc50(_Esc):
    """Environmental sounds in 50 classes: 2,000 clips of 5 s, in five folds."""

    _classes = 50
    _small = replace(_SMALL, epochs=4)

    @property
    def name(self) -> str:
        return "esc50"


@dataclass(frozen=True)
class UrbanSound8K(_Audio):
    """Street sounds in ten classes, 8,732 clips of at most 4 s. Folds 1 to 8 are for training and fold 10 for tests.
    Fold 9 is reserved for the choice of settings and is not used.
    """

    _seconds, _classes = 4.0, 10
    _small = replace(_SMALL, epochs=2)

    @property
    def name(self) -> str:
        return "urbansound8k"

    def data(self) -> Data:
        marker = "metadata/UrbanSound8K.csv"
        folder = folder_with(
            self.name, settings.folder(self), ("UrbanSound8K",), marker, "https://zenodo.org/records/1203745"
        )
        return self._split(urban_sound(folder), set(range(1, 9)), {10})


@dataclass(frozen=True)
class SpeechDigits(_Audio):
    """Spoken digits of the Free Spoken Digit Dataset: 3,000 recordings by six speakers, each cut or extended to 0.64 s.

    The first five recordings of every digit and speaker are for tests. The rate is 16 kHz, or 8 kHz at the small size,
    which is the rate of the recordings.
    """

    _seconds, _classes = 0.64, 10
    _small = replace(_SMALL, rate=8000, epochs=6)

    @property
    def name(self) -> str:
        return "speech-digits"

    def data(self) -> Data:
        return self._split(spoken_digits(spoken_digits_folder(self.name, settings.folder(self))), {1}, {0})


def _cyclic(step: int) -> float:
    """Return the cyclic rate relative to its highest value: it rises in half a period and falls in the other half."""
    return LOWEST + (1 - LOWEST) * (1 - abs(step / HALF_PERIOD % 2 - 1))
