"""Run folders for tests of the report, and their pages."""

from __future__ import annotations

import json
import re

import numpy as np

from blackprop.experiments.records import _portrait as portrait
from blackprop.experiments.report import write_report

METHODS = {"oracle": "Oracle", "frozen": "Frozen", "paper": "Paper", "default": "Default"}
SCORES = {"oracle": 0.95, "frozen": 0.35, "paper": 0.9, "default": 0.94}
OVERHEAD = {"oracle": 0.0, "frozen": 0.0, "paper": 59.6, "default": 0.25}
SEEDS = (0, 1, 2)
SPREAD = 0.02  # accuracies of the seeds: the score, and this above and below


def make_run(folder, devices=("light-modulator", "microring"), methods=METHODS, steps=(10, 20, 30), **summary):
    metric = summary.get("metric", "accuracy")
    cells = [(d, m, s) for d in devices for m in methods for s in SEEDS]
    config = {
        "format": "blackprop run 1",
        "task": "digits",
        "settings": {"network": "physical", "epochs": 3},
        "methods": {name: {"class": kind, "name": name} for name, kind in methods.items()},
        "devices": list(devices),
        "seeds": list(SEEDS),
        "imperfections": {"read_noise": 0.02, "drift": 0.0},
    }
    results = [{**key(*cell), **result(*cell, metric)} for cell in cells]
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "summary.json").write_text(
        json.dumps({"task": "digits", "network": "physical", **summary, "results": results})
    )
    lines = [{**key(*cell), **line(*cell, step, max(steps), metric)} for cell in cells for step in steps]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(each) + "\n" for each in lines))
    return folder


def key(device, method, seed):
    return {"device": device, "method": method, "seed": seed}


def result(device, method, seed, metric):
    score = SCORES.get(method, 0.5) + SPREAD * (seed - 1)
    over = OVERHEAD.get(method, 1.0)
    gap = {"gap_closed": (score - SCORES["frozen"]) / (SCORES["oracle"] - SCORES["frozen"])}
    cost = {"row_overhead": over, "programming_overhead": 2 * over, "lab_seconds": 90.0 + over}
    return {metric: score, "f1": score - 0.01, **gap, **cost}


def line(device, method, seed, step, last, metric):
    score = SCORES.get(method, 0.5) * step / last + SPREAD * (seed - 1)
    layer = {"signal": 0.1, "snr": 0.11, "oracle_cosine": 0.3 + 0.1 * seed, "oracle_cosine_x": None, "residual": 0.01}
    return {
        metric: score,
        "step": step,
        "epoch": step // 10,
        "loss": 2.0 / step,
        "rows": {"forward": 100 * step, "parameter": 1000 * step, "evaluate": 7},
        "lab_seconds": 0.5 * step,
        "rates": {"digital": 1e-3, "theta": 1e-2},
        "layers": {"0": layer},
    }


def keep_portraits(folder, *cells, size=(6, 8)):
    generator = np.random.default_rng(0)
    for device, method, seed in cells:
        before, after = ({f"0/{what}": generator.normal(size=size) for what in ("theta", "matrix")} for _ in range(2))
        after["0/surrogate"] = 1.1 * after["0/matrix"]
        confusion = np.array([[9, 1], [2, 8]])
        portrait.save(
            folder / "portraits" / f"{method}.{device}.{seed}.npz",
            before,
            after,
            confusion,
            ["a cat, or the like", "dog"],
        )
    return after


def page_of(*folders):
    output = write_report(folders, folders[0].parent / "out" / "report.html")
    html = output.read_text()
    (data,) = re.findall(r'<script type="application/json" id="report">(.*?)</script>', html)
    return html, json.loads(data)


def rows_of(html):
    """The cells of each row of the tables, without markup."""
    bodies = "".join(re.findall(r"<tbody>(.*?)</tbody>", html))
    rows = re.findall(r"<tr>(.*?)</tr>", bodies)
    return [[re.sub(r"<[^>]*>", "", cell) for cell in re.findall(r"<td[^>]*>(.*?)</td>", row)] for row in rows]


def find(entries, **wanted):
    (found,) = [entry for entry in entries if all(entry[name] == value for name, value in wanted.items())]
    return found


EVIL = "</script><b><img src=x onerror='throw 1'>"
