"""Reports: the progress of a run, and the tables and the page of its results."""

from blackprop.experiments.report._html import write_report

__all__ = ["write_report"]
