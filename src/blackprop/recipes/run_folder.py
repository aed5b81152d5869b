"""A run on disk: config.json, metrics.jsonl, checkpoint.pt, summary.json.

Every file but metrics.jsonl is written aside and renamed, so that what is there is whole: a full disk or a power cut
leaves the previous checkpoint. metrics.jsonl is appended to, one line an epoch; one cut short is dropped on resume.
"""

from __future__ import annotations

import contextlib
import enum
import io
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from blackprop.errors import CheckpointError, RunFolderError

_CONFIG, _METRICS, _CHECKPOINT, _SUMMARY = "config.json", "metrics.jsonl", "checkpoint.pt", "summary.json"
_RUN_FORMAT, _CHECKPOINT_FORMAT = "blackprop run 1", "blackprop checkpoint 1"


class Existing(enum.Enum):
    """What to do with a run folder that exists: refuse it, go on with it, or begin it anew."""

    REFUSE = "refuse"
    RESUME = "resume"
    OVERWRITE = "overwrite"


class RunFolder:
    """An opened run folder; `open` makes one."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def open(cls, path: Path, config: Mapping[str, Any], existing: Existing = Existing.REFUSE) -> RunFolder:
        """Begin or go on with the run of `config` in `path`.

        A folder that holds anything is refused unless told otherwise. To resume, its configuration must be `config`,
        and its checkpoint and summary readable. To overwrite, it must be a run: only its four files are replaced.
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
            raise RunFolderError(f"{path} exists already: resume it, overwrite it, or name another folder")
        if occupied:
            folder._config()  # raises unless this is a run of ours
        with _writing(path):
            path.mkdir(parents=True, exist_ok=True)
            for name in (_CHECKPOINT, _SUMMARY):
                (path / name).unlink(missing_ok=True)
        folder._write(_CONFIG, _json(config))
        folder._write(_METRICS, b"")
        return folder

    def checkpoint(self) -> dict[str, Any] | None:
        """The last checkpoint, None where there is none yet."""
        path = self.path / _CHECKPOINT
        if not path.exists():
            return None
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # torch raises a dozen kinds for a damaged file
            raise CheckpointError(f"{path} is damaged, or no checkpoint: {_first_line(error)}") from error
        if not isinstance(state, dict) or state.get("format") != _CHECKPOINT_FORMAT:
            raise CheckpointError(f"{path} is not a checkpoint of a blackprop run")
        return state

    def save_checkpoint(self, state: Mapping[str, Any]) -> None:
        buffer = io.BytesIO()
        torch.save({"format": _CHECKPOINT_FORMAT, **state}, buffer)
        self._write(_CHECKPOINT, buffer.getvalue())

    def summary(self) -> dict[str, Any] | None:
        """The summary as it stands, None where there is none yet."""
        path = self.path / _SUMMARY
        if not path.exists():
            return None
        summary = _load_json(path)
        if not isinstance(summary, dict) or not isinstance(summary.get("results"), list):
            raise RunFolderError(f"{path} is not the summary of a blackprop run")
        return summary

    def save_summary(self, summary: Mapping[str, Any]) -> None:
        self._write(_SUMMARY, _json(summary))

    def metrics(self) -> list[dict[str, Any]]:
        """All whole lines; one that was cut short by a kill or a full disk is passed over."""
        path, lines = self.path / _METRICS, []
        with _writing(path):
            text = path.read_text() if path.exists() else ""
        for line in text.splitlines():
            with contextlib.suppress(ValueError):
                lines.append(json.loads(line))
        return [line for line in lines if isinstance(line, dict) and "epoch" in line]

    def append_metrics(self, line: Mapping[str, Any]) -> None:
        with _writing(self.path / _METRICS), (self.path / _METRICS).open("a") as file:
            file.write(json.dumps(line) + "\n")

    def replace_metrics(self, lines: list[dict[str, Any]]) -> None:
        self._write(_METRICS, "".join(json.dumps(line) + "\n" for line in lines).encode())

    def _config(self) -> dict[str, Any]:
        path = self.path / _CONFIG
        if not path.is_file():
            raise RunFolderError(f"{self.path} is not a run folder (it holds no {_CONFIG}); nothing in it was changed")
        config = _load_json(path)
        if not isinstance(config, dict) or config.get("format") != _RUN_FORMAT:
            raise RunFolderError(f"{path} is not the configuration of a blackprop run; nothing was changed")
        return config

    def _check_same(self, config: Mapping[str, Any]) -> None:
        was = self._config()
        differences = [
            f"{name} was {json.dumps(old)} and is {json.dumps(new)}" for name, old, new in _differences(was, config)
        ]
        if differences:
            raise RunFolderError(f"{self.path} is the run of another configuration: {'; '.join(differences)}")

    def _write(self, name: str, content: bytes) -> None:
        path, aside = self.path / name, self.path / f".{name}.part"
        with _writing(path):
            try:
                with aside.open("wb") as file:
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())
                aside.replace(path)
            except BaseException:
                with contextlib.suppress(OSError):
                    aside.unlink(missing_ok=True)
                raise


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        raise RunFolderError(
            f"{path}: {reason}; what was written before is whole, and the run can be resumed"
        ) from error


def _load_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise RunFolderError(f"{path} cannot be read: {_first_line(error)}") from error


def _json(value: Mapping[str, Any]) -> bytes:
    return (json.dumps(value, indent=2) + "\n").encode()


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _differences(was: Any, now: Any, name: str = "") -> Iterator[tuple[str, Any, Any]]:
    """The leaves in which two configurations differ, by dotted name."""
    if isinstance(was, dict) and isinstance(now, dict):
        for key in {**was, **now}:
            yield from _differences(was.get(key), now.get(key), f"{name}.{key}" if name else key)
    elif was != now:
        yield name, was, now
