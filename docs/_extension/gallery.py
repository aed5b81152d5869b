"""The state in which each script of the gallery begins on the site."""

from __future__ import annotations

from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt

LOOK = {
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.dpi": 110,
    "font.size": 9.5,
    "legend.frameon": False,
    "savefig.facecolor": "white",
}


def start(gallery: dict[str, Any], script: str) -> None:
    """Close the figures of the script before, and set the look of the next one."""
    del gallery, script
    plt.close("all")
    mpl.rcdefaults()
    mpl.rcParams.update(LOOK)
