"""The page with plots: one file that opens without a network, on a phone and in the dark."""

from __future__ import annotations

import html
import json
from collections.abc import Callable
from importlib.resources import files
from typing import Any

Document = dict[str, Any]

STYLE = """
:root { color-scheme: light dark; --ink: #1c2024; --soft: #60646c; --ground: #fcfcfd; --card: #f0f0f3;
  --wrong: #ce2c31; --line: #d9d9e0; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #edeef0; --soft: #b0b4ba; --ground: #111113; --card: #212225; --wrong: #ff9592;
    --line: #43484e; }
}
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--ground); margin: 0 auto;
  padding: 1rem; max-width: 70rem; }
h1 { font-size: 1.3rem; overflow-wrap: anywhere; } h2 { font-size: 1rem; margin: 0 0 .3rem; }
.wrong { color: var(--wrong); font-weight: 600; }
.cards { display: grid; gap: .8rem; grid-template-columns: repeat(auto-fit, minmax(min(100%, 20rem), 1fr)); }
.card { background: var(--card); border-radius: .5rem; padding: .8rem; min-width: 0; }
.card p { margin: 0; color: var(--soft); overflow-wrap: anywhere; }
.card p.value { font-size: 1.2rem; color: var(--ink); }
pre { overflow-x: auto; background: var(--card); padding: .8rem; border-radius: .5rem; }
.plots { margin: .8rem 0; }
.plot { width: 100%; min-width: 0; overflow: hidden; }
.plot svg { display: block; touch-action: pan-y; }
#tip { position: fixed; z-index: 9; pointer-events: none; max-width: 18rem; padding: .35rem .55rem; font-size: .8rem;
  color: var(--ink); background: var(--card); border: 1px solid var(--line); border-radius: .4rem;
  overflow-wrap: anywhere; }
#tip[hidden] { display: none; }
"""
DRAW = (files("blackprop.characterisation") / "draw.js").read_text("utf-8")
SCRIPT = """
const figures = JSON.parse(document.getElementById("figures").textContent);
const COLOURS = ["#0090ff", "#f76b15", "#30a46c", "#e93d82", "#8e4ec6", "#ad7f58"];
function paint() {
  for (const [name, figure] of Object.entries(figures)) {
    const traces = figure.data.map((trace, k) => {
      const colour = COLOURS[k % COLOURS.length], marker = { size: 6, color: colour };
      const hover = trace.x.map((x, i) => [`${Number(x.toPrecision(4))}: ${Number(trace.y[i].toPrecision(4))}`]);
      const inked = trace.type === "bars" ? { colour } : { marker, line: trace.joined && { color: colour } };
      return { ...trace, hover, ...inked };
    });
    draw(document.getElementById("plot-" + name), traces, figure.layout);
  }
}
window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", paint);
window.addEventListener("resize", paint);
paint();
"""
FIRST = ("coupling", "linear", "response")  # the basis of a plan; then the others, in their order


def page(document: Document, text: str) -> str:
    """Return the report as self-contained HTML. Plots without findings, noise or change are left out."""
    curves = document["curves"]
    figures = {name: (title, draw(curves[name])) for name, title, draw in PLOTS if curves.get(name)}
    figures = {name: each for name, each in figures.items() if _shows(name, document["findings"], each[1])}
    plots = [
        f'<div class="card"><h2>{html.escape(title)}</h2><div class="plot" id="plot-{name}" role="img" '
        f'aria-label="{html.escape(title)}"></div></div>'
        for name, (title, _) in figures.items()
    ]
    drawn = json.dumps({name: figure for name, (_, figure) in figures.items()}, allow_nan=False).replace("<", "\\u003c")
    findings = sorted(document["findings"].items(), key=lambda each: _place(each[0]))
    name = html.escape(document["device"])
    wrong = "".join(f'<p class="wrong">{html.escape(each)}</p>' for each in document["diagnoses"])
    conclusion = document["conclusion"]
    first = "".join(f"<p>First: {html.escape(each)}</p>" for each in conclusion["first"])
    conclusion = (
        f'<section id="conclusion"><h2>Conclusion</h2>{first}<p>{html.escape(conclusion["plan"])}</p>'
        f"<pre>{html.escape(conclusion['line'])}</pre></section>"
    )
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{name}</title><style>{STYLE}</style></head>
<body><h1>{name}</h1>{wrong}{conclusion}
<div class="cards">{"".join(_card(finding) for _, finding in findings)}</div>
<div class="cards plots">{"".join(plots)}</div>
<h2>The report as text</h2><pre>{html.escape(text)}</pre>
<script type="application/json" id="figures">{drawn}</script><script>{DRAW}</script><script>{SCRIPT}</script>
</body></html>
"""


def _shows(name: str, findings: Document, figure: Document) -> bool:
    """Whether there is a visible effect beyond rounding."""
    none = [
        name
        for name, found in findings.items()
        if found["known"] and found["value"] == 0 and found["value"] is not False
    ]
    quiet = "noise" in none and (name == "noise" or name in {"settling", "drift"} & {*none})
    return not quiet and any(any(trace["y"]) for trace in figure["data"])


def _place(finding: str) -> int:
    return FIRST.index(finding) if finding in FIRST else len(FIRST)


def _card(finding: Document) -> str:
    value = finding["value"]
    if not finding["known"]:
        shown = "unknown"
    elif value is None:
        shown = "none"
    elif isinstance(value, bool):
        shown = "yes" if value else "no"
    else:
        shown = value if isinstance(value, str) else f"{value:.4g}"
    sure = f" <small>({min(99.0, 100 * finding['confidence']):.0f} % sure)</small>" if finding["known"] else ""
    return (
        f'<div class="card"><h2>{html.escape(finding["name"])}</h2><p class="value">{html.escape(shown)}{sure}</p>'
        f"<p>{html.escape(finding['evidence'])}</p></div>"
    )


def _figure(traces: list[Document], across: str, up: str, **axes: Document) -> Document:
    """Return the input of the page's script: traces, and their axes with titles."""
    layout = {name: {"title": title, **axes.get(name, {})} for name, title in (("xaxis", across), ("yaxis", up))}
    known = [
        {**trace, "x": [x for x, y in pairs if y is not None], "y": [y for _, y in pairs if y is not None]}
        for trace in traces
        for pairs in [[(x, y) for x, y in zip(trace["x"], trace["y"], strict=True) if x is not None]]
    ]
    return {"data": known, "layout": {**layout, "height": 300}}


def _lines(x: str, y: str, across: str, up: str, *, log: bool = False) -> Callable[[Document], Document]:
    """A plot of one or several lines of a curve's `y` over its `x`."""

    def draw(curve: Document) -> Document:
        several = curve[y] if isinstance(curve[y][0], list) else [curve[y]]
        kind = {"type": "log"} if log else {"tozero": y == "difference"}
        traces = [{"x": curve[x], "y": line, "joined": True} for line in several]
        return _figure(traces, across, up, xaxis={"type": "log"} if log else {}, yaxis=kind)

    return draw


def _noise(curve: Document) -> Document:
    traces = [{"x": curve["mean"], "y": curve["std"]}]
    return _figure(traces, "size of the output", "scatter", yaxis={"tozero": True})


def _codes(curve: Document) -> Document:
    bars, count = curve["explained"], len(curve["explained"])
    traces = [{"type": "bars", "x": [(k + 0.5) / count for k in range(count)], "y": bars, "width": 0.9 / count}]
    across = {"range": [0, 1]}
    return _figure(traces, "part explained by one parameter", "elements", xaxis=across, yaxis={"tozero": True})


PLOTS: tuple[tuple[str, str, Callable[[Document], Document]], ...] = (
    ("coupling", "How well codes explain the elements", _codes),
    ("noise", "Scatter of repeated readings", _noise),
    ("linearity", "One row at growing drive", _lines("drive", "outputs", "drive", "outputs")),
    ("response", "All parameters moved together", _lines("theta", "outputs", "shift of θ", "outputs of one row")),
    ("settling", "Readings after programming", _lines("read", "difference", "reading", "difference to the last")),
    ("drift", "Answers further and further apart", _lines("programmings", "difference", "programmings", "difference")),
    ("step", "Expected error of a difference", _lines("step", "error", "step", "relative error", log=True)),
)
