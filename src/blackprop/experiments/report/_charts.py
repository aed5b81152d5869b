"""The content of the page's charts as JSON-compatible values: means over seeds, their standard errors, portraits."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any

import numpy as np

from blackprop.experiments.records._result import number
from blackprop.experiments.report._means import mean_and_error
from blackprop.experiments.report._runs import Entry, StoredRun, key_of

POINTS = 400  # largest number in a line
VALUES = 40_000  # approximate number in all lines of a method on a device
CLASSES = 128  # largest number in a confusion matrix
BINS = 60  # of a histogram
PIXELS = 4_000_000  # of all matrices on a page; larger ones are reduced
FIGURES = ("f1", "perplexity", "gap_closed", "row_overhead", "programming_overhead", "lab_seconds", "joules")


def comparison(run: StoredRun) -> list[Entry]:
    """Return a row for each device and method: the number of seeds, and the mean and standard error of each figure."""
    groups: dict[tuple[str, str], list[Entry]] = {}
    for result in run.results:
        groups.setdefault(key_of(result)[:2], []).append(result)
    order = list(dict.fromkeys(device for device, _ in groups))
    return [
        {
            **_place(run, device, method),
            "seeds": len(results),
            "figures": {
                "metric" if name == run.metric else name: mean_and_error(number(each.get(name)) for each in results)
                for name in (run.metric, *FIGURES)
            },
        }
        for (device, method), results in sorted(groups.items(), key=lambda group: order.index(group[0][0]))
    ]


def curves(run: StoredRun) -> list[Entry]:
    """Return the metrics over steps for each device and method of the run, see `_curve`."""
    groups: dict[tuple[str, str], dict[tuple[int, float], Entry]] = {}
    for line in run.lines:  # use the last line of a seed and step
        device, method, seed = key_of(line)
        groups.setdefault((device, method), {})[seed, float(line["step"])] = line
    return [
        {**_place(run, device, method), **_curve(run, list(lines.values()))}
        for (device, method), lines in groups.items()
    ]


def _curve(run: StoredRun, lines: Sequence[Entry]) -> Entry:
    """Return rows and lab time at each step (means over the seeds), and the mean and standard error of every series."""
    at: dict[float, list[Entry]] = {}
    for line in lines:
        at.setdefault(float(line["step"]), []).append(line)
    steps = _thinned(sorted(at), min(POINTS, max(50, VALUES // len(_series(run, lines[-1])))))
    told = [[_series(run, line) for line in at[step]] for step in steps]
    names = dict.fromkeys(name for seeds in told for each in seeds for name in each)
    series = {name: _means([[each.get(name) for each in seeds] for seeds in told]) for name in names}
    across = {
        "rows": [_mean(map(_rows, at[step])) for step in steps],
        "lab": [_mean(number(line.get("lab_seconds")) for line in at[step]) for step in steps],
    }
    known = {name: each for name, each in series.items() if any(mean is not None for mean in each["mean"])}
    return {"steps": steps, **across, "series": known}


def _series(run: StoredRun, line: Entry) -> dict[str, float | None]:
    """Return all numbers of a line by name: scores, `rate/...` and `layer/<series>/<layer>`."""
    found = {"metric": number(line.get(run.metric)), "loss": number(line.get("loss"))}
    rates = line.get("rates")
    if isinstance(rates, dict):
        found |= {f"rate/{name}": number(value) for name, value in rates.items()}
    layers = line.get("layers")
    for name, layer in layers.items() if isinstance(layers, dict) else ():
        if isinstance(layer, dict):
            found |= {f"layer/{what}/{name}": number(layer.get(what)) for what in LAYER_SERIES}
    return found


LAYER_SERIES = (
    *("signal", "snr", "oracle_cosine", "oracle_cosine_x", "residual"),
    *("noise", "drift", "recalibrations", "at_limit"),
)


def portraits(run: StoredRun) -> list[Entry]:
    """Return the confusion matrix, and θ and the matrices of each layer, for each trial with a portrait."""
    keys = dict.fromkeys(key_of(entry) for entry in (*run.results, *run.lines))
    found, classes = [], 0
    for key in keys:
        arrays = run.portrait(key)
        layers = dict.fromkeys(name.rsplit("/", 1)[0] for name in arrays if "/" in name)
        try:
            shown = {name: _layer(arrays, name) for name in layers}
            entry = {**_place(run, *key[:2]), "seed": key[2], "layers": shown, **_confusion(arrays)}
        except (ValueError, TypeError, IndexError):
            run.notes.append(f"the portrait of {key[1]} on {key[0]}, seed {key[2]}, is damaged and left out")
            continue
        if arrays:
            found.append(entry)
            classes = max(classes, len(arrays.get("confusion", ())))
    if classes > CLASSES:
        run.notes.append(f"confusion matrices of {classes} classes are too large to read and left out")
    return found


def packed(entries: list[Entry]) -> list[Entry]:
    """Convert matrices to one byte per element, and halve their sides until all of them fit on the page."""
    layers = [layer for entry in entries for layer in entry["layers"].values()]
    while sum(matrix.size for layer in layers for matrix in layer["matrices"].values()) > PIXELS:
        for layer in layers:
            layer["matrices"] = {name: matrix[::2, ::2] for name, matrix in layer["matrices"].items()}
    for layer in layers:
        layer["difference"] = _difference(layer["matrices"])
        largest = max((float(np.abs(matrix).max()) for matrix in layer["matrices"].values()), default=0.0) or 1.0
        layer["largest"] = largest
        layer["matrices"] = {name: _bytes(matrix / largest) for name, matrix in layer["matrices"].items()}
    return entries


def _layer(arrays: Mapping[str, np.ndarray], name: str) -> Entry:
    matrices = {what: arrays.get(f"{name}/{part}") for what, part in MATRICES.items()}
    kept = {what: np.nan_to_num(matrix) for what, matrix in matrices.items() if matrix is not None and matrix.ndim == 2}
    thetas = [arrays.get(f"{name}/theta_{when}") for when in ("before", "after")]
    return {"matrices": kept, "theta": _histogram([theta for theta in thetas if theta is not None])}


def _difference(matrices: Mapping[str, np.ndarray]) -> float | None:
    """Return ‖S − A‖ / ‖A‖ of the surrogate's matrix S and the device's A after training."""
    true, surrogate = matrices.get("after"), matrices.get("surrogate")
    if true is None or surrogate is None or true.shape != surrogate.shape or not true.any():
        return None
    return float(np.linalg.norm(surrogate - true) / np.linalg.norm(true))


MATRICES = {"before": "matrix_before", "after": "matrix_after", "surrogate": "surrogate"}


def _histogram(thetas: Sequence[np.ndarray]) -> Entry | None:
    """Return the shares of θ before and after training, in the same bins."""
    finite = [theta[np.isfinite(theta)] for theta in thetas]
    if len(finite) < 2 or not all(map(len, finite)):
        return None
    edges = np.histogram_bin_edges(np.concatenate(finite), BINS)
    before, after = (np.histogram(theta, edges)[0] / len(theta) for theta in finite)
    return {
        "middles": _rounded((edges[:-1] + edges[1:]) / 2),
        "width": float(edges[1] - edges[0]),
        "before": _rounded(before),
        "after": _rounded(after),
    }


def _confusion(arrays: Mapping[str, np.ndarray]) -> Entry:
    counts = arrays.get("confusion")
    if counts is None or counts.ndim != 2 or len(counts) > CLASSES:
        return {"confusion": None, "classes": []}
    names = [str(name) for name in arrays.get("classes", np.array([]))]
    named = names if len(names) == len(counts) else [str(k) for k in range(len(counts))]
    return {"confusion": counts.astype(int).tolist(), "classes": named}


def _bytes(values: np.ndarray) -> Entry:
    """Encode a matrix of numbers within ±1 as signed bytes, 127 for 1."""
    whole = np.rint(127 * values).astype(np.int8)
    return {"bytes": base64.b64encode(whole.tobytes()).decode(), "shape": list(whole.shape)}


def _place(run: StoredRun, device: str, method: str) -> Entry:
    return {"task": run.task, "run": run.name, "device": device, "method": method}


def _means(values: Sequence[Sequence[float | None]]) -> dict[str, list[float | None]]:
    """Return means and standard errors over the seeds that have a value."""
    found = [mean_and_error(value for value in some if value is not None) or (None, None) for some in values]
    return {"mean": [_short(mean) for mean, _ in found], "error": [_short(error) for _, error in found]}


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def _short(value: float | None) -> float | None:
    """Round to six digits, more than a chart shows."""
    return None if value is None else float(f"{value:.6g}")


def _rows(line: Entry) -> float | None:
    """Return the rows used by training: all except those of evaluation."""
    rows = line.get("rows")
    if not isinstance(rows, dict):
        return None
    return sum(number(count) or 0.0 for purpose, count in rows.items() if purpose != "evaluate")


def _thinned(steps: list[float], most: int) -> list[float]:
    """Return at most `most` of the steps, evenly spaced, including the first and the last."""
    if len(steps) <= most:
        return steps
    return [steps[k] for k in np.linspace(0, len(steps) - 1, most).round().astype(int)]


def _rounded(values: np.ndarray) -> list[Any]:
    return np.asarray(values, dtype=float).round(6).tolist()
