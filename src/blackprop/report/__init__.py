"""Reports: what a run shows while it goes on, and the tables of what it found."""

from blackprop.report.progress import Progress
from blackprop.report.table import price_table, results_table

__all__ = ["Progress", "price_table", "results_table"]
