"""Checks of task settings, with messages that name the caller's arguments."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from blackprop.errors import ArgumentError


def at_least(task: object, **bounds: int) -> None:
    """Raise `ArgumentError` if a setting is below its bound."""
    for name, bound in bounds.items():
        if getattr(task, name) < bound:
            raise ArgumentError(f"{called(task, name)} must be at least {bound}, got {getattr(task, name)}")


def between(task: object, name: str, low: int, high: int, what: str = "") -> None:
    """Raise `ArgumentError` if a setting is outside `[low, high]`. `what` names the unit, e.g. " training images"."""
    if not low <= getattr(task, name) <= high:
        the = "the " if what else ""
        raise ArgumentError(
            f"{called(task, name)} must be between {low} and {the}{high}{what}, got {getattr(task, name)}"
        )


def rates(task: object, *names: str) -> None:
    """Raise `ArgumentError` if a rate is not positive and finite."""
    for name in names:
        if not 0 < getattr(task, name) < float("inf"):
            raise ArgumentError(f"{called(task, name)} must be positive and finite, got {getattr(task, name)}")


def resolve(task: object, preset: object, names: tuple[str, ...]) -> None:
    """Replace settings that are None by the values of the preset, so that the configuration holds the values used."""
    for name in names:
        if getattr(task, name) is None:
            object.__setattr__(task, name, getattr(preset, name))


def keep_folder(task: object, data_dir: Path | str | None) -> None:
    """Store the folder under its own name, because it is not a field and `dataclasses.replace` would drop it."""
    object.__setattr__(task, "data_dir", None if data_dir is None else Path(data_dir))


def folder(task: object) -> Path | None:
    """Return the folder stored by `keep_folder`."""
    kept: Any = vars(task)["data_dir"]
    return kept


def called(task: object, name: str) -> str:
    """Return a field as the caller writes it."""
    return f"`{type(task).__name__}({name}=...)`"
