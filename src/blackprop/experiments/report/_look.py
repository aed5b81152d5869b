"""The style of charts in documents, which the benchmarks draw with matplotlib.

Colour-blind readers can distinguish its colours. The background is always white, so charts look the same in print and
in dark mode.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PAPER, INK, FAINT = "#ffffff", "#222222", "#8a8a8a"
DASHES: dict[str, Any] = {"oracle": (0, (5, 3)), "frozen": (0, (1, 2))}  # line styles of the two references
LOOK: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "blackprop",
    "font.family": "sans-serif",
    "font.size": 9,
    "text.color": INK,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
}


@contextmanager
def page(file: Path, size: tuple[float, float]) -> Iterator[Figure]:
    """Yield an empty figure of `size` in inches, and save it as `file` (.svg, .png or .pdf) afterwards."""
    import matplotlib as mpl  # noqa: PLC0415  # only benchmarks need it
    from matplotlib.figure import Figure  # noqa: PLC0415

    with mpl.rc_context(LOOK):
        figure = Figure(figsize=size, layout="constrained", facecolor=PAPER)
        yield figure
        figure.savefig(file, dpi=120, metadata={"Date": None} if file.suffix == ".svg" else None)


def bare(ax: Axes) -> None:
    """Remove the frame of a panel at its top and right."""
    ax.set_facecolor(PAPER)
    ax.spines[["top", "right"]].set_visible(False)


def with_rows(ax: Axes) -> None:
    """Draw faint horizontal lines behind the data of a panel."""
    ax.grid(axis="y", color="#e6e6e6", linewidth=0.7)
    ax.set_axisbelow(True)


def over_decades(ax: Axes) -> None:
    """Remove the frame of a panel, and make its abscissa logarithmic with plain numbers as ticks."""
    from matplotlib.ticker import NullLocator  # noqa: PLC0415

    bare(ax)
    ax.set_xscale("log")
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
