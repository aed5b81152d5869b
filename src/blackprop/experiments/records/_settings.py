"""Checks of the settings of tasks, in the caller's words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from blackprop.errors import ArgumentError


def at_least(task: object, **bounds: int) -> None:
    """Refuse a setting that is below its bound."""
    for name, bound in bounds.items():
        if getattr(task, name) < bound:
            raise ArgumentError(f"{called(task, name)} must be at least {bound}, got {getattr(task, name)}")


def between(task: object, name: str, low: int, high: int, what: str = "") -> None:
    """Refuse a setting outside the two; `what` there are of the higher, as in " training images"."""
    if not low <= getattr(task, name) <= high:
        the = "the " if what else ""
        raise ArgumentError(
            f"{called(task, name)} must be between {low} and {the}{high}{what}, got {getattr(task, name)}"
        )


def rates(task: object, *names: str) -> None:
    """Refuse a rate that is not positive and finite."""
    for name in names:
        if not 0 < getattr(task, name) < float("inf"):
            raise ArgumentError(f"{called(task, name)} must be positive and finite, got {getattr(task, name)}")


def resolve(task: object, preset: object, names: tuple[str, ...]) -> None:
    """Give the settings that are None the values of the preset, so that the configuration shows what was run."""
    for name in names:
        if getattr(task, name) is None:
            object.__setattr__(task, name, getattr(preset, name))


def keep_folder(task: object, data_dir: Path | str | None) -> None:
    """Keep the folder, which is not a field, under its own name, so that `dataclasses.replace` keeps it."""
    object.__setattr__(task, "data_dir", None if data_dir is None else Path(data_dir))


def folder(task: object) -> Path | None:
    """The folder that was kept."""
    kept: Any = vars(task)["data_dir"]
    return kept


def called(task: object, name: str) -> str:
    """A field as the caller has written it."""
    return f"`{type(task).__name__}({name}=...)`"
