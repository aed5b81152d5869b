"""The page with plots: one file that opens without a network, on a phone and in the dark."""

from __future__ import annotations

import html
from collections.abc import Callable
from typing import Any

Document = dict[str, Any]

STYLE = """
:root { color-scheme: light dark; --ink: #1c2024; --soft: #60646c; --ground: #fcfcfd; --card: #f0f0f3;
  --wrong: #ce2c31; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #edeef0; --soft: #b0b4ba; --ground: #111113; --card: #212225; --wrong: #ff9592; }
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
"""
# Plotly paints on its own: this tells it the colours of the page, and again when they change.
SCRIPT = """
const dark = window.matchMedia("(prefers-color-scheme: dark)");
function paint() {
  const style = getComputedStyle(document.documentElement);
  const ink = style.getPropertyValue("--ink").trim(), soft = style.getPropertyValue("--soft").trim();
  for (const plot of document.querySelectorAll(".plotly-graph-div")) {
    const change = {"font.color": ink};
    for (const axis of ["xaxis", "yaxis"]) {
      change[axis + ".gridcolor"] = dark.matches ? "#363a3f" : "#d9d9e0";
      change[axis + ".zerolinecolor"] = soft;
    }
    Plotly.relayout(plot, change);
    Plotly.Plots.resize(plot);  // it was drawn before its neighbours took their place
  }
}
dark.addEventListener("change", paint);
paint();
"""


def page(document: Document, text: str) -> str | None:
    """The report as HTML, self-contained; None where Plotly is not installed."""
    try:
        from plotly.offline import get_plotlyjs  # noqa: PLC0415  # an extra, and slow to import
    except ModuleNotFoundError:
        return None
    plots = [
        _plot(name, title, draw(document["curves"][name]))
        for name, title, draw in PLOTS
        if document["curves"].get(name)
    ]
    name = html.escape(document["device"])
    wrong = "".join(f'<p class="wrong">{html.escape(each)}</p>' for each in document["diagnoses"])
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{name}</title><style>{STYLE}</style><script>{get_plotlyjs()}</script></head>
<body><h1>{name}</h1>{wrong}
<div class="cards">{"".join(_card(finding) for finding in document["findings"].values())}</div>
<div class="cards plots">{"".join(plots)}</div>
<h2>The report as text</h2><pre>{html.escape(text)}</pre>
<script>{SCRIPT}</script></body></html>
"""


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


def _plot(name: str, title: str, figure: Any) -> str:
    figure.update_layout(
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        margin={"l": 55, "r": 10, "t": 10, "b": 45},
        height=300,
        showlegend=False,
        colorway=["#0090ff", "#f76b15", "#30a46c", "#e93d82", "#8e4ec6", "#ad7f58"],
    )
    body = figure.to_html(
        full_html=False,
        include_plotlyjs=False,
        div_id=f"plot-{name}",
        config={"responsive": True, "displayModeBar": False},
    )
    return f'<div class="card"><h2>{html.escape(title)}</h2>{body}</div>'


def _lines(x: str, y: str, across: str, up: str, *, log: bool = False) -> Callable[[Document], Any]:
    """A plot of one or several lines of a curve's `y` over its `x`."""

    def draw(curve: Document) -> Any:
        from plotly import graph_objects as go  # noqa: PLC0415

        several = curve[y] if isinstance(curve[y][0], list) else [curve[y]]
        figure = go.Figure([go.Scatter(x=curve[x], y=line, mode="lines+markers") for line in several])
        kind = "log" if log else "linear"
        figure.update_xaxes(title=across, type=kind).update_yaxes(title=up, type=kind)
        return figure.update_yaxes(rangemode="tozero") if y == "difference" else figure

    return draw


def _noise(curve: Document) -> Any:
    from plotly import graph_objects as go  # noqa: PLC0415

    figure = go.Figure(go.Scatter(x=curve["mean"], y=curve["std"], mode="markers"))
    return figure.update_xaxes(title="size of the output").update_yaxes(title="scatter", rangemode="tozero")


def _codes(curve: Document) -> Any:
    from plotly import graph_objects as go  # noqa: PLC0415

    bars = curve["explained"]
    figure = go.Figure(go.Bar(x=[(k + 0.5) / len(bars) for k in range(len(bars))], y=bars))
    return figure.update_xaxes(title="part explained by one parameter", range=[0, 1]).update_yaxes(
        title="elements", type="log"
    )


PLOTS: tuple[tuple[str, str, Callable[[Document], Any]], ...] = (
    ("noise", "Scatter of repeated readings", _noise),
    ("linearity", "One row at growing drive", _lines("drive", "outputs", "drive", "outputs")),
    ("response", "All parameters moved together", _lines("theta", "outputs", "shift of θ", "outputs of one row")),
    ("settling", "Readings after programming", _lines("read", "difference", "reading", "difference to the last")),
    ("drift", "Answers further and further apart", _lines("programmings", "difference", "programmings", "difference")),
    ("step", "Expected error of a difference", _lines("step", "error", "step", "relative error", log=True)),
    ("coupling", "How well codes explain the elements", _codes),
)
