"""Sequences classified with a reservoir: digits row by row, spoken digits, and files of other data sets."""

from __future__ import annotations

import functools
from collections import Counter
from dataclasses import InitVar, dataclass
from pathlib import Path

import torch
from torch import Tensor

from blackprop.errors import ArgumentError, DataError
from blackprop.experiments.records import _settings as settings
from blackprop.experiments.records._settings import called
from blackprop.experiments.tasks._digits import Digits
from blackprop.experiments.tasks._objectives import Classification, Objective
from blackprop.experiments.tasks._task import Data
from blackprop.experiments.tasks.audio._clips import Clip, spoken_digits, spoken_digits_folder, waveforms
from blackprop.experiments.tasks.audio._log_mel import LogMel
from blackprop.experiments.tasks.sequences._archive import Archived, last_nonzero, read_ts
from blackprop.experiments.tasks.sequences._base import SequenceTask
from blackprop.experiments.tasks.sequences._networks import Sizes, pad

SIDE, CLASSES = 8, 10
RATE, SECONDS, BANDS = 8000, 0.64, 16  # of the recordings; longer ones are cut at their end
DECIBELS = 20.0  # the value of a feature of 1
TOGETHER = 256  # clips transformed at once


@dataclass(frozen=True)
class DigitRows(SequenceTask):
    """Handwritten digits of 8×8 pixels in [0, 1], one row of pixels per step: 1,437 training and 360 test images."""

    drives: int = 8
    batch_size: int = 64

    @property
    def name(self) -> str:
        return "digit-rows"

    @property
    def objective(self) -> Objective:
        return Classification()

    @property
    def sizes(self) -> Sizes:
        return Sizes(SIDE, SIDE, self.drives, self.nodes, CLASSES, pooled=True)

    def data(self) -> Data:
        flat = Digits().data()
        x, x_test = (pixels.unflatten(1, (SIDE, SIDE)) for pixels in (flat.x_train, flat.x_test))
        return Data(x, flat.y_train, x_test, flat.y_test)


@dataclass(frozen=True)
class SpokenDigits(SequenceTask):
    """Spoken digits of the Free Spoken Digit Dataset, of different lengths: 16 log-mel bands every 10 ms, at most
    0.64 s. The first five recordings of every digit and speaker are for tests, and `train_takes` others for training.
    """

    drives: int = 8
    epochs: int = 10
    batch_size: int = 32
    train_takes: int = 10
    """Number of training recordings of every digit and speaker; published 45."""
    # Not a field: the folder does not affect results, so a run can be resumed with the files in another folder.
    data_dir: InitVar[Path | None] = None
    """Folder of the published collection, with recordings/, or a folder that contains it."""

    def __post_init__(self, data_dir: Path | None) -> None:
        settings.keep_folder(self, data_dir)
        super().__post_init__()
        settings.at_least(self, train_takes=1)

    @property
    def name(self) -> str:
        return "spoken-digits"

    @property
    def objective(self) -> Objective:
        return Classification()

    @property
    def sizes(self) -> Sizes:
        frames = 1 + round(SECONDS * RATE) // _features().hop
        return Sizes(frames, BANDS, self.drives, self.nodes, CLASSES, pooled=True)

    def data(self) -> Data:
        found = spoken_digits(spoken_digits_folder(self.name, settings.folder(self)))
        takes: Counter[str] = Counter()  # recordings so far, by digit and speaker
        kept = []
        for clip in sorted((clip for clip in found.clips if clip.fold == 1), key=_take):
            takes[who := clip.path.stem.rpartition("_")[0]] += 1
            if takes[who] <= self.train_takes:
                kept.append(clip)
        test = [clip for clip in found.clips if clip.fold == 0]
        if len(kept) < self.batch_size or not test:
            raise DataError(f"{found.source} holds {len(kept)} training recordings and {len(test)} test recordings")
        parts = [part for clips in (kept, test) for part in (self._sequences(clips), _labels(clips))]
        return Data(*parts, classes=found.classes)

    def _sequences(self, clips: list[Clip]) -> Tensor:
        """Return the features (N, frames, bands + 1); the last channel marks the frames within a recording."""
        waves = waveforms([clip.path for clip in clips], RATE, round(SECONDS * RATE))
        features, found = _features(), []
        for part in waves.split(TOGETHER):
            for wave, decibels in zip(part, features.decibels(part).mT / DECIBELS, strict=True):
                there = decibels[: 1 + max(1, last_nonzero(wave)) // features.hop]
                found.append(there - there.mean(0))
        return pad(found, self.sizes.time)


@dataclass(frozen=True)
class Sequences(SequenceTask):
    """Sequences of a data set in the format of the time series classification archive: <dataset>_TRAIN.ts and
    <dataset>_TEST.ts, of any length, channels and classes. Each channel is standardised over the training sequences.
    """

    dataset: str = "JapaneseVowels"
    """Name of the data set, with which its two files begin."""
    drives: int = 8
    batch_size: int = 16
    # Not a field: the folder does not affect results, so a run can be resumed with the files in another folder.
    data_dir: InitVar[Path | None] = None
    """Folder of the two files, or a folder that contains a folder with the name of the data set."""

    def __post_init__(self, data_dir: Path | None) -> None:
        settings.keep_folder(self, data_dir)
        super().__post_init__()

    @property
    def name(self) -> str:
        """The name of the data set."""
        return self.dataset

    @property
    def objective(self) -> Objective:
        return Classification()

    @property
    def sizes(self) -> Sizes:
        train, test = self._read()
        longest = max(len(sequence) for part in (train, test) for sequence in part.sequences)
        channels = train.sequences[0].shape[1]
        return Sizes(longest, channels, self.drives, self.nodes, len(train.classes), pooled=True)

    def data(self) -> Data:
        train, test = self._read()
        steps = torch.cat(train.sequences)
        mean, spread = steps.mean(0), steps.std(0)
        spread = torch.where(spread > 0, spread, 1.0)
        parts = []
        for part in (train, test):
            scaled = [(sequence - mean) / spread for sequence in part.sequences]
            parts += [pad(scaled, self.sizes.time), torch.tensor([train.classes.index(name) for name in part.labels])]
        return Data(*parts, classes=train.classes)

    def _read(self) -> tuple[Archived, Archived]:
        given = settings.folder(self)
        files = [f"{self.dataset}_{split}.ts" for split in ("TRAIN", "TEST")]
        if given is None:
            raise DataError(
                f"{self.dataset} cannot be downloaded automatically: get {files[0]} and {files[1]} from "
                "https://timeseriesclassification.com and give their folder as `--data-dir`"
            )
        places = (given, given / self.dataset)
        folder = next((place for place in places if all((place / file).is_file() for file in files)), None)
        if folder is None:
            raise DataError(f"neither {places[0]} nor {places[1]} holds {files[0]} with {files[1]}")
        train, test = (read_ts(folder / file) for file in files)
        if train.sequences[0].shape[1] != test.sequences[0].shape[1] or train.classes != test.classes:
            raise DataError(f"{files[0]} and {files[1]} in {folder} have different channels or classes")
        if len(train.sequences) < self.batch_size:
            raise ArgumentError(
                f"{called(self, 'batch_size')} must be at most the {len(train.sequences)} sequences of {files[0]}, "
                f"got {self.batch_size}"
            )
        return train, test


def archived_in(folder: Path) -> dict[str, int]:
    """Return the data sets of the archive's format in `folder`, or in folders of their names inside it, with the number
    of their training sequences. The number is 0 if the file is damaged.
    """
    trains = [*folder.glob("*_TRAIN.ts"), *folder.glob("*/*_TRAIN.ts")] if folder.is_dir() else []
    pairs = sorted((path.name.removesuffix("_TRAIN.ts"), path) for path in trains)
    return {
        name: _count(path)
        for name, path in pairs
        if path.parent in {folder, folder / name} and path.with_name(f"{name}_TEST.ts").is_file()
    }


def _count(path: Path) -> int:
    try:
        return len(read_ts(path).sequences)
    except DataError:  # the task raises it when it runs
        return 0


@functools.cache
def _features() -> LogMel:
    return LogMel(RATE, BANDS)


def _take(clip: Clip) -> int:
    return int(clip.path.stem.rpartition("_")[2])


def _labels(clips: list[Clip]) -> Tensor:
    return torch.tensor([clip.label for clip in clips])
