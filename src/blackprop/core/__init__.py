"""Declarations, queries, the driver that runs them, and the ledger that counts them."""

from blackprop.core._declaration import Cost, Coupling, Declaration, ThetaSpec
from blackprop.core._ledger import Budget, Ledger, metered, price
from blackprop.core._query import Count, Measure, Procedure, Purpose, Query, ask, in_rounds, read, run

__all__ = [
    "Budget",
    "Cost",
    "Count",
    "Coupling",
    "Declaration",
    "Ledger",
    "Measure",
    "Procedure",
    "Purpose",
    "Query",
    "ThetaSpec",
    "ask",
    "in_rounds",
    "metered",
    "price",
    "read",
    "run",
]
