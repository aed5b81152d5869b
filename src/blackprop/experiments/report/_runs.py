"""Run folders for the report. Damaged or missing parts become notes; other folders raise an error."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from blackprop.errors import RunFolderError
from blackprop.experiments.records._result import is_result, is_trial, number
from blackprop.experiments.records._run_folder import RUN, VERSION

READ = {f"{RUN}{version}" for version in (1, 2, VERSION)}  # formats that the report can read
REFERENCES = {  # by method class in the configuration, including earlier versions
    "OracleReference": "oracle",
    "Oracle": "oracle",
    "FrozenReference": "frozen",
    "Frozen": "frozen",
}

Entry = dict[str, Any]
Key = tuple[str, str, int]  # device, method, seed


@dataclass(frozen=True)
class StoredRun:
    """The content of a run folder, checked as far as a page needs it."""

    path: Path
    name: str
    config: Entry
    task: str  # with its network
    metric: str
    higher_is_better: bool
    results: list[Entry]
    lines: list[Entry]
    origin: dict[str, str] = field(default_factory=dict)
    """The date and version of the start of the run, if recorded."""
    notes: list[str] = field(default_factory=list)
    """Sentences on the parts that cannot be shown."""

    def portrait(self, key: Key) -> dict[str, np.ndarray]:
        """Return the arrays of a trial's portrait; none if it has no portrait."""
        device, method, seed = key
        path = self.path / "portraits" / f"{method}.{device}.{seed}.npz"
        try:
            if path.parent.name != "portraits" or not path.is_file():  # a name with a slash leads to another folder
                return {}
            with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
                return {name: file[name] for name in file.files}
        except Exception:  # a damaged archive raises many kinds of error
            self.notes.append(f"the portrait {path.name} is damaged and left out")
            return {}


def read(path: Path, name: str) -> StoredRun:
    """Return the run in the folder `path`, named `name` on the page. Raises `RunFolderError` if there is none."""
    config = _object(path / "config.json", f"{path} is not a run folder (it holds no config.json)")
    found = str(config.get("format"))
    if not found.startswith(RUN):
        raise RunFolderError(f"{path / 'config.json'} is not the configuration of a blackprop run")
    if found not in READ:
        raise RunFolderError(f"{path} is a run of the format {found!r}, which this version cannot read")
    summary: Entry = {"results": []}
    if (path / "summary.json").exists():
        summary = _object(path / "summary.json", "")
        if not isinstance(summary.get("results"), list):
            raise RunFolderError(f"{path / 'summary.json'} is not the summary of a blackprop run")
    settings = _mapping(config, "settings")
    words = (config.get("task"), settings.get("network"))
    metric = str(summary.get("metric") or "accuracy")
    results = [each for each in summary["results"] if is_result(each, metric)]
    lines, damaged = _metrics(path / "metrics.jsonl")
    run = StoredRun(
        path=path,
        name=name,
        config=config,
        task=" · ".join(str(word) for word in words if word),
        metric=metric,
        higher_is_better=bool(summary.get("higher_is_better", True)),
        results=results,
        lines=lines,
        origin=_origin(path / "origin.json"),
    )
    run.notes.extend(_notes(run, len(summary["results"]) - len(results), damaged))
    return run


def key_of(entry: Mapping[str, Any]) -> Key:
    return str(entry["device"]), str(entry["method"]), int(entry["seed"])


def references(run: StoredRun) -> dict[str, str]:
    """Return the references oracle and frozen of a run by their names in it: `{name: "oracle" | "frozen"}`."""
    methods = _mapping(run.config, "methods")
    kinds = {name: each.get("class") for name, each in methods.items() if isinstance(each, dict)}
    return {name: REFERENCES[kind] for name, kind in kinds.items() if isinstance(kind, str) and kind in REFERENCES}


def _origin(path: Path) -> dict[str, str]:
    try:
        kept = _object(path, "")
    except RunFolderError:  # of an earlier version or damaged, which does not affect results
        return {}
    return {name: value for name in ("begun", "version", "commit") if isinstance(value := kept.get(name), str)}


def _notes(run: StoredRun, odd: int, damaged: int) -> Iterator[str]:
    missing = _missing(run)
    if missing:
        yield "not finished, and shown as far as it is recorded: " + "; ".join(missing)
    for what, count in (("results in summary.json", odd), ("lines of metrics.jsonl", damaged)):
        if count:
            yield f"{count} of the {what} could not be read and {'is' if count == 1 else 'are'} left out"


def _missing(run: StoredRun) -> list[str]:
    """Return the trials of the configuration without a result, as one phrase for each device and method."""
    finished, found = {key_of(result) for result in run.results}, []
    devices, seeds = (run.config.get(name) for name in ("devices", "seeds"))
    if not (isinstance(devices, list) and isinstance(seeds, list)):
        return []
    seeds = [seed for seed in seeds if isinstance(seed, int)]
    for device in map(str, devices):
        for method in _mapping(run.config, "methods"):
            left = [seed for seed in seeds if (device, method, seed) not in finished]
            if left:
                named = f"seed{'s' if len(left) > 1 else ''} {', '.join(map(str, left))}"
                found.append(f"{method} on {device}, {named}")
    return found


def _metrics(path: Path) -> tuple[list[Entry], int]:
    """Return the lines that can be read, and the number of others."""
    try:
        texts = path.read_text("utf-8", errors="replace").split("\n") if path.exists() else []
    except OSError as error:
        raise RunFolderError(f"{path} cannot be read: {error.strerror or error}") from error
    found = [_parsed(text) for text in texts if text.strip()]
    lines = [line for line in found if is_trial(line) and number(line.get("step")) is not None]
    return lines, len(found) - len(lines)


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _mapping(entry: Mapping[str, Any], name: str) -> Entry:
    value = entry.get(name)
    return value if isinstance(value, dict) else {}


def _object(path: Path, absent: str) -> Entry:
    try:
        value = json.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError) as error:
        raise RunFolderError(absent) from error
    except (OSError, ValueError, RecursionError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise RunFolderError(f"{path} cannot be read: {reason}") from error
    if not isinstance(value, dict):
        raise RunFolderError(f"{path} does not hold a JSON object")
    return value
