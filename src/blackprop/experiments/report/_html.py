"""The report of one or several runs: one file that opens offline, also on a phone and in dark mode."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path

from blackprop._origin import origin
from blackprop.characterisation._page import DRAW, STYLE
from blackprop.errors import RunFolderError
from blackprop.experiments.report import _parts as parts
from blackprop.experiments.report._charts import comparison, curves, packed
from blackprop.experiments.report._charts import portraits as drawn
from blackprop.experiments.report._runs import Entry, StoredRun, read, references


def write_report(runs: Sequence[Path], output: Path) -> Path:
    """Write the page of the run folders `runs` to `output`, and return `output`. Its size is about 60 kB plus the data.

    The page shows the results as a table and as charts, with means and standard errors over the seeds, and the devices
    before and after training. Several runs are compared, with the names of their folders. Damaged or missing parts of a
    run are left out, with a note on the page. Raises `RunFolderError` if a folder is not a run folder.
    """
    folders = list({Path(path).resolve(): Path(path) for path in runs}.values())
    if not folders:
        raise RunFolderError("a report needs at least one run folder")
    found = [read(path, name) for path, name in zip(folders, names(folders), strict=True)]
    _write(Path(output), _page(found))
    return Path(output)


def _page(runs: Sequence[StoredRun]) -> str:
    content = document(runs)
    tasks: dict[str, Entry] = content["tasks"]
    asset = {
        name: (files("blackprop.experiments.report") / name).read_text("utf-8")
        for name in ("page.css", "charts.js", "page.js")
    }
    tables = "".join(parts.table(content, name) for name in tasks)
    title = escape(", ".join(tasks))
    data = json.dumps(content, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,"><title>{title}</title><style>{STYLE}{asset["page.css"]}</style></head>
<body><header><h1>{title}</h1>{parts.extent(runs)}</header>{parts.notes(runs)}
<section><h2>What was run</h2>{"".join(parts.what_was_run(run, opened=len(runs) == 1) for run in runs)}</section>
<section><h2>Results</h2>{tables}{parts.findings(runs)}</section>
<div class="controls top">{"".join(map(parts.select, ("task", "run", "device")))}
<div class="chips" id="chips" role="group" aria-label="methods shown"></div>
<span id="symbols"></span></div>
{"".join(parts.section(section) for section in parts.SECTIONS)}
<section id="portraits"><h2>One trained network</h2>
<div class="controls">{parts.select("method")}{parts.select("seed")}</div>
<div class="cards" id="portrait"></div></section>
<footer>Lines and dots are means over the seeds; bands, bars and ± are one standard error of the mean.
Written by blackprop {escape(_written())}.</footer>
<script type="application/json" id="report">{data}</script>
<script>{DRAW}</script><script>{asset["charts.js"]}</script><script>{asset["page.js"]}</script></body></html>
"""


def _written() -> str:
    """Return the version that writes the page, and the date."""
    now = origin()
    commit = f" (commit {now['commit']})" if "commit" in now else ""
    return f"{now['version']}{commit}, {now['begun']}"


def document(runs: Sequence[StoredRun], *, portraits: bool = True) -> Entry:
    """Return the data for the script of the page, with or without the portraits of trained devices."""
    found = {
        "runs": [run.name for run in runs],
        "tasks": {run.task: {"metric": run.metric, "higher": run.higher_is_better} for run in runs},
        "results": [row for run in runs for row in comparison(run)],
        "curves": [curve for run in runs for curve in curves(run)],
        "portraits": packed([each for run in runs for each in drawn(run)] if portraits else []),
    }
    return {**found, "methods": _methods(runs, [*found["results"], *found["curves"]])}


def _methods(runs: Sequence[StoredRun], entries: Iterable[Entry]) -> dict[str, Entry]:
    """Return the colour index of each method, the same in all charts. Oracle and frozen have their own colours."""
    known = {name: kind for run in runs for name, kind in references(run).items()}
    configured = (name for run in runs for name in run.config.get("methods") or {})
    names = list(dict.fromkeys([*configured, *(entry["method"] for entry in entries)]))
    others = [name for name in names if name not in known]
    ordered = sorted(names, key=lambda name: list(known).index(name) if name in known else len(known))
    return {
        name: {"reference": known.get(name), "index": others.index(name) if name in others else 0} for name in ordered
    }


def names(folders: Sequence[Path]) -> list[str]:
    """Return the names of the folders, with as many parent folders as make them different."""
    paths = [folder.resolve().parts for folder in folders]
    depth = 1
    while len({path[-depth:] for path in paths}) < len(paths):
        depth += 1
    return ["/".join(path[-depth:]) for path in paths]


def _write(output: Path, content: str) -> None:
    aside = output.with_name(f".{output.name}.part")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        aside.write_text(content, encoding="utf-8", errors="replace")
        aside.replace(output)
    except OSError as error:
        with contextlib.suppress(OSError):
            aside.unlink(missing_ok=True)
        raise RunFolderError(f"{output} cannot be written: {error.strerror or error}") from error
