"""A run on disk: config.json, origin.json (date and version of its start), metrics.jsonl, summary.json, the last two
checkpoints, and a portrait of each trial.

All files except metrics.jsonl are written under another name and then renamed, so every file is complete: a full disk
or a power cut leaves the previous checkpoint. A checkpoint contains its checksum. If it is damaged, the previous one is
used. metrics.jsonl gets one line per evaluation. An incomplete line is dropped on resume. If the disk is full, the run
continues with a warning, and the missing files are written when there is space.
"""

from __future__ import annotations

import contextlib
import enum
import hashlib
import io
import json
import os
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from blackprop._origin import origin
from blackprop.errors import BlackpropWarning, CheckpointError, RunFolderError
from blackprop.experiments.records import _json_lines as json_lines
from blackprop.experiments.records import _portrait as portrait
from blackprop.experiments.records._result import PARTS, is_trial

_CONFIG, _METRICS, _SUMMARY, _PORTRAITS = "config.json", "metrics.jsonl", "summary.json", "portraits"
_ORIGIN = "origin.json"
_CHECKPOINT, _PREVIOUS = "checkpoint.bin", "checkpoint.previous.bin"
RUN = "blackprop run "  # followed by the version of the format
VERSION = 3
_RUN_FORMAT, _MAGIC = f"{RUN}{VERSION}", b"blackprop checkpoint 3\n"


def encoded(state: Mapping[str, Any]) -> bytes:
    """Return a checkpoint as bytes: a line with the format, a line with the checksum (sha256, hex), and the state as
    written by torch.save.
    """
    buffer = io.BytesIO()
    torch.save(dict(state), buffer)
    content = buffer.getvalue()
    return b"".join((_MAGIC, hashlib.sha256(content).hexdigest().encode(), b"\n", content))


def decoded(content: bytes) -> dict[str, Any]:
    """Return the state in a checkpoint. Raises `ValueError` if it is damaged or not a checkpoint of this library."""
    if not content.startswith(_MAGIC):
        raise ValueError("it does not begin with the header of a blackprop checkpoint")
    checksum, _, rest = content[len(_MAGIC) :].partition(b"\n")
    if hashlib.sha256(rest).hexdigest().encode() != checksum:
        raise ValueError("its content does not match its checksum")
    state = torch.load(io.BytesIO(rest), map_location="cpu", weights_only=True)
    if not isinstance(state, dict):
        raise TypeError("it does not contain a state")
    return state


class Existing(enum.Enum):
    """How to treat an existing run folder.

    - `REFUSE`: raise `RunFolderError`.
    - `RESUME`: continue its run.
    - `OVERWRITE`: delete the files of its run and start again.
    """

    REFUSE = "refuse"
    RESUME = "resume"
    OVERWRITE = "overwrite"


class RunFolder:
    """An open run folder, created by `open`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._unwritten: list[Mapping[str, Any]] = []
        self._unsaved: bytes | None = None
        self._unwritten_summary: Mapping[str, Any] | None = None

    @classmethod
    def open(cls, path: Path, config: Mapping[str, Any], existing: Existing = Existing.REFUSE) -> RunFolder:
        """Start or resume the run of `config` in `path`.

        By default a folder that is not empty is refused. To resume, its configuration must equal `config`, and a
        checkpoint and the summary must be readable. To overwrite, it must be a run folder; only files of the run are
        replaced. Raises `RunFolderError` or `CheckpointError` otherwise.
        """
        folder, config = cls(path), {"format": _RUN_FORMAT, **json.loads(json.dumps(config))}
        with _writing(path):
            occupied = path.exists() and (not path.is_dir() or any(path.iterdir()))
        if existing is Existing.RESUME:
            if not occupied:
                raise RunFolderError(f"there is no run in {path} to resume")
            folder._check_same(config)
            folder.checkpoint()
            folder.summary()
            return folder
        if occupied and existing is Existing.REFUSE:
            raise RunFolderError(
                f"{path} already exists: use `--resume` to continue its run, `--overwrite` to start it again, or "
                "`--run-dir` to choose another folder"
            )
        if occupied:
            folder._config()  # raises if this is not a run folder of any version
        with _writing(path):
            path.mkdir(parents=True, exist_ok=True)
            for old in (path / _CHECKPOINT, path / _PREVIOUS, path / _SUMMARY, *(path / _PORTRAITS).glob("*.npz")):
                old.unlink(missing_ok=True)
        folder._write(_CONFIG, _json(config))
        folder._write(_ORIGIN, _json(origin()))
        folder._write(_METRICS, b"")
        return folder

    def checkpoint(self) -> dict[str, Any] | None:
        """Return the last complete checkpoint, or None if there is none yet. Warns if one is damaged."""
        reasons = []
        for path in (self.path / _CHECKPOINT, self.path / _PREVIOUS):
            if not path.exists():
                continue
            try:
                state = decoded(path.read_bytes())
            except Exception as error:  # torch raises many kinds of error for a file that it cannot read
                reasons.append(f"{path} is damaged, or not a checkpoint: {_first_line(error)}")
                continue
            if reasons:
                warnings.warn(f"{reasons[0]}; the previous one is used", BlackpropWarning, stacklevel=2)
            return state
        if reasons:
            raise CheckpointError("; ".join(reasons))
        return None

    def save_checkpoint(self, content: bytes) -> None:
        """Save a checkpoint made by `encoded`, and keep the previous one."""
        self._unsaved = content
        with self._going_on("the previous checkpoint is kept"):
            self._save(content)

    def _save(self, content: bytes) -> None:
        current, previous = self.path / _CHECKPOINT, self.path / _PREVIOUS
        aside = self._aside(_CHECKPOINT, content)
        with _writing(current):
            if current.exists():
                current.replace(previous)
            aside.replace(current)
        self._unsaved = None

    def summary(self) -> dict[str, Any] | None:
        """Return the present summary, or None if there is none yet."""
        path = self.path / _SUMMARY
        if not path.exists():
            return None
        summary = _load_json(path)
        results = summary.get("results") if isinstance(summary, dict) else None
        if not isinstance(results, list):
            raise RunFolderError(f"{path} is not the summary of a blackprop run")
        if not all(isinstance(result, dict) and is_trial(result) for result in results):
            raise RunFolderError(f"{path} is damaged: it holds a result without a method, device and seed")
        return summary

    def save_summary(self, summary: Mapping[str, Any]) -> None:
        self._unwritten_summary = summary
        with self._going_on("the summary is written when there is space"):
            self._write(_SUMMARY, _json(summary))
            self._unwritten_summary = None

    def complete(self) -> None:
        """Write the files that could not be written before. Raises `RunFolderError` if the disk is still full."""
        if self._unsaved is not None:
            self._save(self._unsaved)
        if self._unwritten_summary is not None:
            self._write(_SUMMARY, _json(self._unwritten_summary))
        if self._unwritten:
            self.replace_metrics([*self.metrics(), *map(dict, self._unwritten)])

    def metrics(self) -> list[dict[str, Any]]:
        """Return all complete lines. Lines cut short by a kill or a full disk, or of other programs, are skipped."""
        path = self.path / _METRICS
        with _writing(path):
            lines = json_lines.read(path)
        return [line for line in lines if "step" in line]

    def append_metrics(self, line: Mapping[str, Any]) -> None:
        self._unwritten.append(line)
        with self._going_on("the line is written when there is space"):
            with _writing(self.path / _METRICS):
                json_lines.append(self.path / _METRICS, self._unwritten)
            self._unwritten.clear()

    def replace_metrics(self, lines: list[dict[str, Any]]) -> None:
        self._write(_METRICS, "".join(json.dumps(line) + "\n" for line in lines).encode())

    def save_portrait(
        self,
        trial: Mapping[str, Any],
        before: Mapping[str, np.ndarray],
        after: Mapping[str, np.ndarray],
        tally: Tensor,
        classes: tuple[str, ...],
    ) -> None:
        """Save the devices of a trial before and after training, and its confusion matrix, if it has classes."""
        confusion = tally.numpy() if tally.dim() == 2 else None
        name = ".".join(str(trial[part]) for part in PARTS)
        with self._going_on("the report will not show this trial's devices"), _writing(self.path / _PORTRAITS):
            (self.path / _PORTRAITS).mkdir(exist_ok=True)
            portrait.save(self.path / _PORTRAITS / f"{name}.npz", before, after, confusion, classes)

    def _config(self) -> dict[str, Any]:
        path = self.path / _CONFIG
        if not path.is_file():
            raise RunFolderError(f"{self.path} is not a run folder (it holds no {_CONFIG}); no file was changed")
        config = _load_json(path)
        if not isinstance(config, dict) or not str(config.get("format")).startswith(RUN):
            raise RunFolderError(f"{path} is not the configuration of a blackprop run; no file was changed")
        return config

    def _check_same(self, config: Mapping[str, Any]) -> None:
        was = self._config()
        if was["format"] != _RUN_FORMAT:
            raise RunFolderError(
                f"{self.path} is a run of the format {was['format']!r}, and this version resumes only runs of the "
                f"format {_RUN_FORMAT!r}; use `--overwrite` to start it again. No file was changed"
            )
        differences = [
            f"{name} was {json.dumps(old)} and is {json.dumps(new)}" for name, old, new in _differences(was, config)
        ]
        if differences:
            raise RunFolderError(
                f"{self.path} is the run of another configuration: {'; '.join(differences)}. Use the options with "
                "which it was started, or choose another folder"
            )

    def _write(self, name: str, content: bytes) -> None:
        with _writing(self.path / name):
            self._aside(name, content).replace(self.path / name)

    def _aside(self, name: str, content: bytes) -> Path:
        """Write the content to a temporary file beside its target, and wait until it is on disk."""
        aside = self.path / f".{name}.part"
        with _writing(self.path / name):
            try:
                with aside.open("wb") as file:
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())
            except BaseException:
                with contextlib.suppress(OSError):
                    aside.unlink(missing_ok=True)
                raise
        return aside

    @contextlib.contextmanager
    def _going_on(self, consolation: str) -> Iterator[None]:
        """Warn if a file cannot be written, and continue, so that no measurement is lost."""
        try:
            yield
        except RunFolderError as error:
            warnings.warn(f"{error}; the run continues, and {consolation}", BlackpropWarning, stacklevel=3)


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        raise RunFolderError(f"{path}: {reason}; files written earlier are complete") from error


def _load_json(path: Path) -> Any:
    try:
        return json_lines.parsed(path.read_bytes())
    except (OSError, ValueError) as error:
        raise RunFolderError(f"{path} cannot be read: {_first_line(error)}") from error


def _json(value: Mapping[str, Any]) -> bytes:
    return (json.dumps(value, indent=2) + "\n").encode()


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _differences(was: Any, now: Any, name: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yield the values in which two configurations differ, by dotted name."""
    if isinstance(was, dict) and isinstance(now, dict):
        for key in {**was, **now}:
            yield from _differences(was.get(key), now.get(key), f"{name}.{key}" if name else key)
    elif was != now:
        yield name, was, now
