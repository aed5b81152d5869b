"""Reports: what a run shows while it goes on, and the tables and the page of what it found."""

from blackprop.report.board import Board
from blackprop.report.html import write_report
from blackprop.report.progress import Progress
from blackprop.report.table import price_table, reservoir_table, results_table

__all__ = ["Board", "Progress", "price_table", "reservoir_table", "results_table", "write_report"]
