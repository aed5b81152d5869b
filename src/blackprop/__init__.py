"""Train PyTorch networks end to end when some of their layers are black boxes."""

from blackprop import (
    devices,
    diagnostics,
    directions,
    errors,
    estimators,
    lab,
    optim,
    presets,
    programming,
    rules,
    surrogates,
    testing,
    twins,
)
from blackprop.characterise import Characterisation, characterise
from blackprop.declaration import Cost, Coupling, Declaration, ThetaSpec
from blackprop.devices import Device, Simulator
from blackprop.diagnostics import Diagnosis, diagnose
from blackprop.layer import PhysicalLayer
from blackprop.layer_state import for_another_device
from blackprop.ledger import Budget, Ledger, price
from blackprop.planning import Plan, plan
from blackprop.query import Procedure, Purpose, Query, run
from blackprop.substitute import ledger, param_groups, substitute

__all__ = [
    "Budget",
    "Characterisation",
    "Cost",
    "Coupling",
    "Declaration",
    "Device",
    "Diagnosis",
    "Ledger",
    "PhysicalLayer",
    "Plan",
    "Procedure",
    "Purpose",
    "Query",
    "Simulator",
    "ThetaSpec",
    "characterise",
    "devices",
    "diagnose",
    "diagnostics",
    "directions",
    "errors",
    "estimators",
    "for_another_device",
    "lab",
    "ledger",
    "optim",
    "param_groups",
    "plan",
    "presets",
    "price",
    "programming",
    "rules",
    "run",
    "substitute",
    "surrogates",
    "testing",
    "twins",
]
__version__ = "0.1.0"
