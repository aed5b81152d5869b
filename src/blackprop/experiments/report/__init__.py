"""Reports: what a run shows while it goes on, and the tables and the page of what it found."""

from blackprop.experiments.report._html import write_report
from blackprop.experiments.report._progress import Progress
from blackprop.experiments.report._table import price_table, reservoir_table, results_table
from blackprop.experiments.report._tensorboard import Board

__all__ = ["Board", "Progress", "price_table", "reservoir_table", "results_table", "write_report"]
