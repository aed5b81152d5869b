"""The static parts of the page: the configuration of runs, notes, the table, places for charts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from blackprop.core._ledger import in_joules
from blackprop.experiments.report._runs import Entry, StoredRun
from blackprop.experiments.report._table import duration

COLUMNS = (  # figure, heading, factor, digits after the point (None: three in all)
    ("metric", "", 1.0, 3),
    ("f1", "F1 %", 100.0, 1),
    ("perplexity", "perplexity", 1.0, None),
    ("gap_closed", "gap closed", 1.0, 2),
    ("row_overhead", "row overhead", 1.0, None),
    ("programming_overhead", "programming overhead", 1.0, None),
    ("lab_seconds", "lab time, estimated", 1.0, None),
    ("joules", "energy, estimated", 1.0, None),
)


def table(document: Entry, task: str) -> str:
    rows = [row for row in document["results"] if row["task"] == task]
    if not rows:
        return f"<p>No result of {escape(task)} is finished.</p>"
    columns = [column for column in COLUMNS if any(row["figures"][column[0]] for row in rows)]
    words = (["run"] if len({row["run"] for row in rows}) > 1 else []) + ["device", "method"]
    metric = document["tasks"][task]["metric"]
    columns = [_metric_column(metric), *columns[1:]]
    heads = [(word, f"text {word}") for word in words] + [*((column[1], "") for column in columns), ("seeds", "")]
    head = "".join(
        f'<th scope="col" class="{kind}"><button type="button" class="{kind[:4]}">{escape(name)}</button></th>'
        for name, kind in heads
    )
    body = "".join(
        "<tr>"
        + "".join(_word(document, word, row[word]) for word in words)
        + "".join(_figure(row["figures"][name], name, scale, digits) for name, _, scale, digits in columns)
        + f'<td data-sort="{row["seeds"]}">{row["seeds"]}</td></tr>'
        for row in rows
    )
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="results of {escape(task)}"><table>'
        f"<caption><span>{escape(task)}: mean ± standard error over the seeds</span></caption>"
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _metric_column(metric: str) -> tuple[str, str, float, int]:
    return ("metric", "accuracy %", 100.0, 1) if metric == "accuracy" else ("metric", metric.replace("_", " "), 1.0, 3)


def _word(document: Entry, word: str, value: str) -> str:
    shown = escape(value)
    if word == "method":
        method = document["methods"][value]
        kind, again = method["reference"] or f"m{method['index'] % 7}", " again" if method["index"] >= 7 else ""
        shown = f'<span class="swatch {kind}{again}" style="--colour: var(--{kind})"></span>{shown}'
    return f'<td class="text {word}" data-sort="{escape(value)}">{shown}</td>'


def _figure(figure: tuple[float, float | None] | None, name: str, scale: float, digits: int | None) -> str:
    if figure is None:
        return '<td data-sort="">–</td>'
    mean, error = figure
    if name == "lab_seconds":
        shown = duration(mean)
    elif name == "joules":
        shown = in_joules(mean)
    elif digits is None:
        shown = f"{scale * mean:,.3g}" if abs(scale * mean) < 1000 else f"{scale * mean:,.0f}"
    else:
        spread = "" if error is None else f" <small>± {scale * error:.{digits}f}</small>"
        shown = f"{scale * mean:z.{digits}f}{spread}"  # z: no minus before a zero
    return f'<td data-sort="{mean!r}">{shown}</td>'


def extent(runs: Sequence[StoredRun]) -> str:
    results = [result for run in runs for result in run.results]
    counts = {name: len({str(result[name]) for result in results}) for name in ("method", "device", "seed")}
    words = [f"{count} {name}{'' if count == 1 else 's'}" for name, count in counts.items()]
    if len(runs) > 1:
        words.insert(0, f"{len(runs)} runs")
    return f"<p>{', '.join(words)}, {len(results)} finished result{'' if len(results) == 1 else 's'}</p>"


def findings(runs: Sequence[StoredRun]) -> str:
    """The devices that were asked first: their family and the method that was chosen for them."""
    said = {
        f"{result['device']}, {name}": str(text)
        for run in runs
        for result in run.results
        if isinstance(result.get("found"), Mapping)
        for name, text in result["found"].items()
    }
    rows = "".join(f"<li><b>{escape(where)}</b>: {escape(text)}</li>" for where, text in said.items())
    return f"<details><summary>Devices that were asked first</summary><ul>{rows}</ul></details>" if rows else ""


def notes(runs: Sequence[StoredRun]) -> str:
    said = "".join(f"<p><b>{escape(run.name)}</b>: {escape(note)}.</p>" for run in runs for note in run.notes)
    return f'<div class="notes" role="note">{said}</div>' if said else ""


@dataclass(frozen=True)
class Chart:
    """A place for a chart, which the script of the page draws."""

    name: str
    title: str
    note: str = ""


@dataclass(frozen=True)
class Section:
    """Charts under a heading, with their selections `{selection: (label, {value: name})}`."""

    name: str
    title: str
    choices: Mapping[str, tuple[str, Mapping[str, str]]]
    charts: tuple[Chart, ...]


SCALES = {"linear": "linear", "log": "logarithmic"}
SECTIONS = (
    Section(
        "comparison",
        "Methods side by side",
        {"overhead": ("overhead in", {"row_overhead": "rows", "programming_overhead": "programmings"})},
        (
            Chart("side", "What each method reaches", "Lines: oracle (dashed) and frozen (dotted) on the same device."),
            Chart("gap", "Gap closed against overhead"),
            Chart("lab", "Estimated lab time", "The time of all queries on the device, including evaluation."),
        ),
    ),
    Section(
        "learning",
        "Learning",
        {
            "across": ("against", {"steps": "steps", "rows": "rows", "lab": "estimated lab time"}),
            "scale": ("on an axis that is", SCALES),
            "loss": ("loss axis", SCALES),
        },
        (
            Chart("metric", "Evaluation"),
            Chart("loss", "Training loss"),
            Chart("rates", "Learning rates", "Solid: of θ; dotted: of the digital parameters."),
        ),
    ),
    Section(
        "health",
        "Gradients of the devices",
        {"layer": ("layer", {})},
        (
            Chart("signal", "Share of signal in the θ-gradient", "ρ: the part that is the same from step to step."),
            Chart("snr", "Signal over noise in the θ-gradient", "ρ/(1 − ρ), a ratio of powers."),
            Chart("cosine", "θ-gradient against the oracle's", "In the last step before each evaluation."),
            Chart(
                "cosine_x",
                "Input gradient against the oracle's",
                "The accuracy with which the surrogate passes a gradient on.",
            ),
            Chart(
                "residual",
                "Residual of the surrogate",
                "The difference between its prediction of a batch and the readings.",
            ),
        ),
    ),
)


def section(content: Section) -> str:
    choices = "".join(select(name, label, options) for name, (label, options) in content.choices.items())
    cards = "".join(
        f'<figure class="card"><h3>{escape(chart.title)}</h3>'
        f'<div class="plot" id="plot-{chart.name}" role="img" aria-label="{escape(chart.title)}"></div>'
        f'<p class="note" id="{chart.name}-note">{escape(chart.note)}</p></figure>'
        for chart in content.charts
    )
    return (
        f'<section id="{content.name}"><h2>{escape(content.title)}</h2><div class="controls">{choices}</div>'
        f'<div class="cards">{cards}</div></section>'
    )


def select(name: str, label: str = "", options: Mapping[str, str] | None = None) -> str:
    """Return a selection. The script of the page adds the options that depend on the runs."""
    listed = "".join(f'<option value="{value}">{escape(shown)}</option>' for value, shown in (options or {}).items())
    return f'<label>{escape(label or name)} <select id="{name}">{listed}</select></label>'


def what_was_run(run: StoredRun, opened: bool) -> str:
    """Return the configuration of a run."""
    title = f"<b>{escape(run.name)}</b> · {escape(_gist(run))}"
    said = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in _said(run))
    return f"<details{' open' if opened else ''}><summary>{title}</summary><dl>{said}</dl></details>"


def _gist(run: StoredRun) -> str:
    devices, methods, seeds = (run.config.get(name) for name in ("devices", "methods", "seeds"))
    lists = [", ".join(map(str, each)) if isinstance(each, (list, dict)) else "?" for each in (methods, devices)]
    flaws = _pairs({name: value for name, value in _items(run.config, "imperfections") if value})
    count = len(seeds) if isinstance(seeds, list) else 0
    return f"{run.task}: {lists[0]} on {lists[1]}, {count} seed{'' if count == 1 else 's'}" + (flaws and f"; {flaws}")


def _said(run: StoredRun) -> Iterator[tuple[str, str]]:
    config = run.config
    yield "task", str(config.get("task"))
    yield "settings", _pairs(dict(_items(config, "settings")))
    yield "methods", ", ".join(_method(name, method) for name, method in _items(config, "methods"))
    for name in ("devices", "seeds"):
        each = config.get(name)
        yield name, ", ".join(map(str, each)) if isinstance(each, list) else str(each)
    yield "imperfections", _pairs({name: value for name, value in _items(config, "imperfections") if value}) or "none"
    if "execution" in config:
        yield "execution", _pairs(dict(_items(config, "execution")))
    for name, value in run.origin.items():
        yield name, value


def _method(name: str, method: Any) -> str:
    """Return the name of a method, and its settings if it has any."""
    settings = method if isinstance(method, dict) else {}
    said = _pairs({key: value for key, value in settings.items() if key not in {"name", "class"}})
    return f"{name} ({said})" if said else name


def _items(config: Entry, name: str) -> list[tuple[str, Any]]:
    value = config.get(name)
    return list(value.items()) if isinstance(value, dict) else []


def _pairs(settings: Mapping[str, Any]) -> str:
    """Return settings as text. A switch that is on is shown by its name."""
    said = ((name.replace("_", " "), value) for name, value in settings.items() if value is not None)
    return ", ".join(name if value is True else f"{name} {value}" for name, value in said if value is not False)
