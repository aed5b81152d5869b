"""Declarations, queries, the driver that runs them, and the ledger that counts them."""

from blackprop.core._budget import Budget
from blackprop.core._declaration import Coupling, Declaration
from blackprop.core._ledger import Ledger
from blackprop.core._metered import metered, price
from blackprop.core._procedure import Measure, Procedure, ask, in_rounds, read, run
from blackprop.core._query import Count, Purpose, Query
from blackprop.core._round import Round
from blackprop.core._theta import ThetaSpec
from blackprop.core.capabilities._capability import Capability
from blackprop.core.capabilities._cells import Cells
from blackprop.core.capabilities._fields import Fields
from blackprop.core.capabilities._gains import Gains
from blackprop.core.capabilities._nudges import Nudges
from blackprop.core.capabilities._pulse import Pulse
from blackprop.core.capabilities._read_back import ReadBack, ReadBackField
from blackprop.core.capabilities._taps import Taps
from blackprop.core.costs._cost import Cost, EnergyCost

__all__ = [
    "Budget",
    "Capability",
    "Cells",
    "Cost",
    "Count",
    "Coupling",
    "Declaration",
    "EnergyCost",
    "Fields",
    "Gains",
    "Ledger",
    "Measure",
    "Nudges",
    "Procedure",
    "Pulse",
    "Purpose",
    "Query",
    "ReadBack",
    "ReadBackField",
    "Round",
    "Taps",
    "ThetaSpec",
    "ask",
    "in_rounds",
    "metered",
    "price",
    "read",
    "run",
]
