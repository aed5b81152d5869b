"""Which estimator and surrogate suit a device: what a layer uses when nothing is said, and what it will cost."""

from blackprop.planning._ask_first import Asked, AskFirst, tell_allowance
from blackprop.planning._candidates import Candidate, Quality
from blackprop.planning._correlation import correlation_length
from blackprop.planning._finding import Family, InquiryResult
from blackprop.planning._inquiry import inquire
from blackprop.planning._methods import remembered, step_size
from blackprop.planning._plan import Plan, choose, complete, plan
from blackprop.planning._price import Objective, Price, dry_price, programmings, rows, seconds
from blackprop.planning._table import CANDIDATES
from blackprop.planning._workload import Workload

__all__ = [
    "CANDIDATES",
    "AskFirst",
    "Asked",
    "Candidate",
    "Family",
    "InquiryResult",
    "Objective",
    "Plan",
    "Price",
    "Quality",
    "Workload",
    "choose",
    "complete",
    "correlation_length",
    "dry_price",
    "inquire",
    "plan",
    "programmings",
    "remembered",
    "rows",
    "seconds",
    "step_size",
    "tell_allowance",
]
