"""The present state of runs, as the live page shows it: read from their folders, which other processes write."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from blackprop.core._ledger import in_joules
from blackprop.errors import RunFolderError
from blackprop.experiments.records import _json_lines as json_lines
from blackprop.experiments.records._result import is_trial, number
from blackprop.experiments.report._advice import advice, limits
from blackprop.experiments.report._runs import Entry, StoredRun, read
from blackprop.experiments.report._table import duration
from blackprop.monitoring._health import MEASURES
from blackprop.monitoring._process import lives
from blackprop.monitoring._record import FORMAT, LIVE, STATUS, WARNINGS

SILENCE = 120.0  # s without a record, after which a run that cannot be looked for is called silent
MOST = 50  # warnings that are shown
LABELS = {"seconds": "lab time", "joules": "energy"}
SHOWN: dict[str, Callable[[float], str]] = {"seconds": duration, "joules": in_joules}


def folders(path: Path) -> list[Path]:
    """Return the folder of a run, and those of its trials that run in processes of their own."""
    apart = path / "trials"
    return [path, *(sorted(each for each in apart.iterdir() if each.is_dir()) if apart.is_dir() else ())]


def stored(path: Path, name: str) -> StoredRun | None:
    """Return the run with its live lines and those of its unfinished trials; None while there is none."""
    try:
        run = read(path, name)
    except RunFolderError:
        return None
    for folder in folders(path):
        for file in (LIVE,) if folder == path else ("metrics.jsonl", LIVE):
            lines = _lines(folder / file)
            run.lines.extend(line for line in lines if is_trial(line) and number(line.get("step")) is not None)
    return run


def now(path: Path, name: str, run: StoredRun | None) -> Entry:
    """Return the state of a run for its card: a word, its trials, costs against limits, warnings and layers."""
    found = [(status, state_of(status)) for folder in folders(path) if (status := _status(folder)) is not None]
    busy = [each for each in found if each[1] == "running"] or found
    status, state = busy[-1] if busy else ({}, "not begun" if run is None else "not recorded")
    finished, trials = (0, 0) if run is None else _trials(run)
    told = [dict(each) for folder in folders(path) for each in _lines(folder / WARNINGS)]
    return {
        "name": name,
        "state": state,
        "reason": str(status.get("reason") or ""),
        "updated": number(status.get("updated")),
        "trial": _trial(status.get("trial")),
        "trials": [finished, trials],
        "step": number(status.get("step")),
        "steps": number(status.get("steps")),
        "tiles": list(_tiles(status, state)),
        "advice": [each for status, state in busy for each in advice(status, state)],
        "warnings": [{name: each.get(name) for name in ("message", "kind", "step")} for each in told[-MOST:]],
        "layers": _layers(status),
    }


def state_of(status: Mapping[str, Any], at: float | None = None) -> str:
    """Return `running`, `finished`, `stopped` or `failed` as recorded, or `killed` or `silent` as found.

    A run is killed if its process has ended without a last record, which is known on the machine where it ran.
    """
    state = str(status.get("state"))
    if state != "running":
        return state
    alive = lives(process) if isinstance(process := status.get("process"), Mapping) else None
    if alive is False:
        return "killed"
    last = number(status.get("updated")) or 0.0
    patience = max(SILENCE, 20 * (number(status.get("every")) or 1.0))
    silent = (time.time() if at is None else at) - last > patience
    return "silent" if silent and alive is None else "running"


def _trial(value: Any) -> str:
    if not is_trial(value):
        return ""
    return f"{value['method']} on {value['device']}" + (f", seed {value['seed']}" if value["seed"] else "")


def _trials(run: StoredRun) -> tuple[int, int]:
    """The trials that are finished, and all of them."""
    sizes = [run.config.get(name) for name in ("methods", "devices", "seeds")]
    total = 1
    for each in sizes:
        total *= len(each) if isinstance(each, list | dict) else 0
    return len(run.results), total


def _tiles(status: Mapping[str, Any], state: str) -> Iterator[Entry]:
    """Yield the numbers of a card: a label, a value, and of those with a limit the share that is spent."""
    step, steps, start = (number(status.get(name)) or 0.0 for name in ("step", "steps", "from_step"))
    loss = number(status.get("loss"))
    yield _tile("loss", "–" if loss is None else f"{loss:.4g}")
    scores = status.get("scores")
    for name, value in scores.items() if isinstance(scores, Mapping) else ():
        if (score := number(value)) is not None:
            percent = name == "accuracy"
            yield _tile(str(name).replace("_", " "), f"{100 * score:.1f} %" if percent else f"{score:.4g}")
    capped = limits(status)
    for name in ("rows", "programmings"):
        value = number(status.get(name))
        if value is not None and name not in capped:
            yield _tile(name, f"{value:,.0f}")
    lab = number(status.get("lab_seconds"))
    if lab is not None and "seconds" not in capped:
        yield _tile("lab time", duration(lab), note=_remaining(lab, step, steps, state))
    energy = number(status.get("joules"))
    if energy is not None and "joules" not in capped:
        yield _tile("energy", in_joules(energy))
    for name, (spent, limit) in capped.items():
        show = SHOWN.get(name, "{:,.0f}".format)
        left = max(0.0, limit - spent)
        note = f"{show(left)} left" + (f", {left / (spent / step):,.0f} steps" if spent > 0 and step else "")
        share = min(1.0, spent / limit) if limit else 1.0
        yield _tile(LABELS.get(name, name), f"{show(spent)} of {show(limit)}", note=note, share=share)
    begun, updated = (number(status.get(name)) for name in ("begun", "updated"))
    since = number(status.get("trial_begun")) or begun
    if begun is not None and updated is not None:
        done, note = step - start, ""
        if state == "running" and done > 0 and steps > step:
            note = f"about {duration(max(1.0, round((updated - (since or begun)) / done * (steps - step))))} left"
        yield _tile("time", duration(round(updated - begun, 1)), note=note)


def _remaining(lab: float, step: float, steps: float, state: str) -> str:
    if state != "running" or not step or steps <= step:
        return ""
    return f"about {duration(lab / step * (steps - step))} left"


def _tile(label: str, value: str, note: str = "", share: float | None = None) -> Entry:
    return {"label": label, "value": value, "note": note, "share": share}


def _layers(status: Mapping[str, Any]) -> Entry:
    layers = status.get("layers")
    return {
        str(name): {measure: number(layer.get(measure)) for measure in MEASURES}
        for name, layer in (layers.items() if isinstance(layers, Mapping) else ())
        if isinstance(layer, Mapping)
    }


def _status(folder: Path) -> Entry | None:
    try:
        status = json.loads((folder / STATUS).read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    return status if isinstance(status, dict) and status.get("format") == FORMAT else None


def _lines(path: Path) -> Sequence[Entry]:
    try:
        return json_lines.read(path)
    except OSError:
        return ()
