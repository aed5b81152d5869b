"""Which estimator and surrogate suit a device: what a layer uses when nothing is said, and what it will cost."""

from blackprop.planning.candidates import CANDIDATES, Candidate, Quality
from blackprop.planning.methods import remembered, step_size
from blackprop.planning.plan import Plan, choose, complete, plan
from blackprop.planning.price import Objective, Price, dry_price, programmings, rows, seconds

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
