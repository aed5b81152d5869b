"""Published collections of sound clips: their lists of clips, and their waveforms."""

from __future__ import annotations

import csv
import math
import re
import warnings
from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from io import SEEK_CUR, BytesIO
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from blackprop._extras import install
from blackprop.errors import BlackpropWarning, DataError
from blackprop.experiments.records._text_files import finite_number, is_companion
from blackprop.experiments.tasks._task import Data
from blackprop.experiments.tasks.audio._log_mel import FULL_SCALE, WINDOW

UNFILLED = 0x7FFF_0000  # bytes: a header with this size or more was never completed
TAKES = 5  # test recordings of every digit and speaker: the first ones


@dataclass(frozen=True)
class Clip:
    """A file, its class and its fold, a part of the collection."""

    path: Path
    label: int
    fold: int


@dataclass(frozen=True)
class Collected:
    """The clips of a collection and the names of their classes. `source` is the file or folder that lists them."""

    source: Path
    clips: tuple[Clip, ...]
    classes: tuple[str, ...]

    def split(self, train: Collection[int], test: Collection[int], rate: int, samples: int) -> Data:
        """Return clips of the folds `train` and `test` as training and test data: waveforms `(N, samples)`, `rate` in
        Hz. Raises `DataError` if a fold or class has no clips.
        """
        parts = []
        for folds in (train, test):
            chosen = [clip for clip in self.clips if clip.fold in folds]
            self._check(chosen, folds)
            labels = torch.tensor([clip.label for clip in chosen])
            parts += [waveforms([clip.path for clip in chosen], rate, samples), labels]
        return Data(*parts, classes=self.classes)

    def _check(self, chosen: Sequence[Clip], folds: Collection[int]) -> None:
        absent = sorted(set(folds) - {clip.fold for clip in chosen})
        if absent:
            raise DataError(f"{self.source} has no clip of fold {', '.join(map(str, absent))}")
        met = {clip.label for clip in chosen}
        lacking = [name for label, name in enumerate(self.classes) if label not in met]
        if lacking:
            raise DataError(
                f"{self.source} has no clip of the class {', '.join(lacking)} in fold {', '.join(map(str, folds))}"
            )


def esc(folder: Path, classes: int) -> Collected:
    """Read ESC-50, or its 10 classes that are ESC-10: audio/ and meta/esc50.csv."""
    table = folder / "meta" / "esc50.csv"
    rows = _rows(table, ("filename", "fold", "target", "category", "esc10"))
    if classes == 10:
        rows = [row for row in rows if row["esc10"].lower() == "true"]
    found = _collected(table, rows, "target", "category", lambda row: folder / "audio" / row["filename"])
    return _whole(found, classes)


def urban_sound(folder: Path) -> Collected:
    """Read UrbanSound8K: audio/fold1/ to audio/fold10/ and metadata/UrbanSound8K.csv."""
    table = folder / "metadata" / "UrbanSound8K.csv"
    rows = _rows(table, ("slice_file_name", "fold", "classID", "class"))
    return _whole(
        _collected(
            table,
            rows,
            "classID",
            "class",
            lambda row: folder / "audio" / f"fold{row['fold']}" / row["slice_file_name"],
        ),
        10,
    )


def folder_with(task: str, given: Path | None, names: tuple[str, ...], marker: str, publisher: str) -> Path:
    """Return the folder that contains `marker`: the given one, or one of `names` inside it."""
    how = f"get the archive from {publisher}, unpack it and give the folder with {marker} as `--data-dir`"
    if given is None:
        raise DataError(f"{task} cannot be downloaded automatically: {how}")
    folders = (given, *(given / name for name in names))
    found = next((folder for folder in folders if (folder / marker).exists()), None)
    if found is None:
        raise DataError(f"there is no {marker} in {given} or in {', '.join(names)} inside it: {how}")
    return found


def spoken_digits_folder(task: str, given: Path | None) -> Path:
    """Return the folder of the Free Spoken Digit Dataset."""
    names = ("fsdd", "free-spoken-digit-dataset", "free-spoken-digit-dataset-master")
    return folder_with(task, given, names, "recordings", "https://github.com/Jakobovski/free-spoken-digit-dataset")


def spoken_digits(folder: Path) -> Collected:
    """Read the Free Spoken Digit Dataset: recordings/{digit}_{speaker}_{index}.wav. Fold 0, for tests, has the indices
    0 to 4, and fold 1 all others.
    """
    recordings, clips, takes = folder / "recordings", [], defaultdict(set)
    for path in sorted(path for path in recordings.glob("*.wav") if not is_companion(path)):
        named = re.fullmatch(r"(\d)_(\w+)_(\d+)", path.stem)
        if named is None:
            raise DataError(f"{path} is not named {{digit}}_{{speaker}}_{{index}}.wav")
        digit, speaker, index = int(named[1]), named[2], int(named[3])
        takes[speaker].add((digit, index))
        clips.append(Clip(path, digit, int(index >= TAKES)))
    count = 1 + max((index for each in takes.values() for _, index in each), default=0)
    for speaker, each in takes.items():
        absent = [f"{d}_{speaker}_{i}.wav" for d in range(10) for i in range(count) if (d, i) not in each]
        if absent:
            raise DataError(f"{recordings} lacks {absent[0]}" + _more(len(absent) - 1, "recordings"))
    return Collected(recordings, tuple(clips), tuple(map(str, range(10))))


def waveforms(paths: Sequence[Path], rate: int, samples: int) -> Tensor:
    """Read clips at `rate` in Hz, int16 `(N, samples)`: channels are averaged, clips cut at the end or filled with
    silence. Warns of silent clips.
    """
    out, silent = np.zeros((len(paths), samples), np.int16), []
    for row, path in zip(out, paths, strict=True):
        clip = np.clip(np.rint(_read(path, rate)[:samples] * FULL_SCALE), -FULL_SCALE, FULL_SCALE - 1)
        row[: len(clip)] = clip
        if not row.any():
            silent.append(path)
    if silent:
        warnings.warn(f"{silent[0]} is silent" + _more(len(silent) - 1, "clips"), BlackpropWarning, stacklevel=2)
    return torch.from_numpy(out)


def _read(path: Path, rate: int) -> np.ndarray:
    """Read one clip, resampled by a linear-phase filter. Full scale is 1."""
    try:
        import soundfile  # noqa: PLC0415  # both are extras
        from scipy.signal import resample_poly  # noqa: PLC0415
    except ImportError as error:
        raise DataError(f"reading sound needs {error.name}: {install('recipes')}") from error
    if not path.is_file():
        raise DataError(f"{path} is missing")
    try:
        clip, found = soundfile.read(_whole_file(path), dtype="float32", always_2d=True)
    except (OSError, RuntimeError, ValueError) as error:  # soundfile's own errors are RuntimeErrors
        raise DataError(f"{path} cannot be read as sound: {' '.join(str(error).split())}") from error
    clip = clip.mean(1)
    if len(clip) < WINDOW * found:
        raise DataError(f"{path} lasts {1000 * len(clip) / found:.3g} ms, less than the {1000 * WINDOW:.3g} of a frame")
    if not np.isfinite(clip).all():
        raise DataError(f"{path} holds samples that are not finite")
    if found == rate:
        return clip
    common = math.gcd(found, rate)
    return resample_poly(clip, rate // common, found // common)


def _whole_file(path: Path) -> Path | BytesIO:
    """Return the file, unless it is a wave file that is cut short, which libsndfile would accept.

    A program that writes to a pipe does not know the size in advance. It writes 0, which is replaced here by the true
    size, or a size near 2³¹ or 2³². Raises `DataError` if the file is cut short.
    """
    data = _data_chunk(path)
    if data is None:
        return path
    start, told = data
    held = path.stat().st_size - start
    if told < UNFILLED and held < told:
        raise DataError(f"{path} is cut short: it holds {held:,} bytes of samples, but its header specifies {told:,}")
    if told or not held:
        return path
    content = path.read_bytes()
    return BytesIO(
        content[:4]
        + (len(content) - 8).to_bytes(4, "little")
        + content[8 : start - 4]
        + held.to_bytes(4, "little")
        + content[start:]
    )


def _data_chunk(path: Path) -> tuple[int, int] | None:
    """Return the position of the samples in a wave file, and their number of bytes by the header."""
    with path.open("rb") as file:
        if file.read(4) != b"RIFF":
            return None
        file.seek(12)
        while len(head := file.read(8)) == 8:
            size = int.from_bytes(head[4:], "little")
            if head[:4] == b"data":
                return file.tell(), size
            file.seek(size + size % 2, SEEK_CUR)
    return None


def _rows(table: Path, columns: tuple[str, ...]) -> list[dict[str, str]]:
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{table} cannot be read: {' '.join(str(error).split())}") from error
    if not rows:
        raise DataError(f"{table} lists no clip")
    absent = [column for column in columns if column not in rows[0]]
    if absent:
        raise DataError(f"{table} has no column {', '.join(absent)}")
    for line, row in enumerate(rows, start=2):
        if any(not row[column] for column in columns):
            raise DataError(f"{table} is cut short, or damaged in line {line}")
    return rows


def _collected(
    table: Path, rows: list[dict[str, str]], number: str, name: str, path: Callable[[dict[str, str]], Path]
) -> Collected:
    """Return the clips of a table with a column for the number and the name of the class. Classes are renumbered in the
    same order.
    """
    try:
        named = {_whole_number(row[number]): row[name] for row in rows}
        places = {found: label for label, found in enumerate(sorted(named))}
        clips = tuple(Clip(path(row), places[_whole_number(row[number])], _whole_number(row["fold"])) for row in rows)
    except ValueError as error:
        raise DataError(f"{table} holds a fold or class that is not an integer: {error}") from error
    return Collected(table, clips, tuple(named[found] for found in sorted(named)))


def _whole_number(text: str) -> int:
    value = finite_number(text)
    if value is None or value != int(value):
        raise ValueError(f"{text!r}")
    return int(value)


def _whole(found: Collected, classes: int) -> Collected:
    if len(found.classes) != classes:
        raise DataError(
            f"{found.source} holds {len(found.classes)} classes ({', '.join(found.classes)}), of {classes} published"
        )
    return found


def _more(count: int, what: str) -> str:
    return f", and {count} other {what} too" if count else ""
