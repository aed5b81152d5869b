"""Which estimator and surrogate suit a device: what a layer uses when nothing is said, and what it will cost."""

from blackprop.planning._candidates import CANDIDATES, Candidate, Quality
from blackprop.planning._methods import remembered, step_size
from blackprop.planning._plan import Plan, choose, complete, plan
from blackprop.planning._price import Objective, Price, dry_price, programmings, rows, seconds

__all__ = [
    "CANDIDATES",
    "Candidate",
    "Objective",
    "Plan",
    "Price",
    "Quality",
    "choose",
    "complete",
    "dry_price",
    "plan",
    "programmings",
    "remembered",
    "rows",
    "seconds",
    "step_size",
]
