"""Choose the estimator and the surrogate for a device, and compute their price beforehand."""

from blackprop.planning._candidates import Candidate, Quality
from blackprop.planning._plan import Plan, plan
from blackprop.planning._price import Objective, Price, joules, programmings, rows, seconds
from blackprop.planning._table import CANDIDATES
from blackprop.planning._workload import Workload
from blackprop.planning.asking._ask_first import AskFirst
from blackprop.planning.inquiry._correlation import correlation_length
from blackprop.planning.inquiry._finding import Family, InquiryResult
from blackprop.planning.inquiry._inquiry import inquire

__all__ = [
    "CANDIDATES",
    "AskFirst",
    "Candidate",
    "Family",
    "InquiryResult",
    "Objective",
    "Plan",
    "Price",
    "Quality",
    "Workload",
    "correlation_length",
    "inquire",
    "joules",
    "plan",
    "programmings",
    "rows",
    "seconds",
]
