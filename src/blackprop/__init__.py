"""Train PyTorch networks end to end when some of their layers are black boxes."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from blackprop import devices, directions, errors, estimators, planning, presets, surrogates, twins
from blackprop._later import later
from blackprop.core import (
    Budget,
    Cost,
    Coupling,
    Declaration,
    EnergyCost,
    Ledger,
    Procedure,
    Purpose,
    Query,
    ThetaSpec,
    price,
    run,
)
from blackprop.devices import Device, Simulator
from blackprop.nn import (
    Diagnosis,
    PhysicalLayer,
    advise,
    diagnose,
    for_another_device,
    ledger,
    param_groups,
    substitute,
)
from blackprop.planning import Plan, plan

if TYPE_CHECKING:
    from blackprop import conversion, deployment, foreign, lab, learning_rules, monitoring, optim, testing
    from blackprop.characterisation import Characterisation, characterise
    from blackprop.deployment import Adapter, deploy

__all__ = [
    "Adapter",
    "Budget",
    "Characterisation",
    "Cost",
    "Coupling",
    "Declaration",
    "Device",
    "Diagnosis",
    "EnergyCost",
    "Ledger",
    "PhysicalLayer",
    "Plan",
    "Procedure",
    "Purpose",
    "Query",
    "Simulator",
    "ThetaSpec",
    "advise",
    "characterise",
    "conversion",
    "deploy",
    "deployment",
    "devices",
    "diagnose",
    "directions",
    "errors",
    "estimators",
    "for_another_device",
    "foreign",
    "lab",
    "learning_rules",
    "ledger",
    "monitoring",
    "optim",
    "param_groups",
    "plan",
    "planning",
    "presets",
    "price",
    "run",
    "substitute",
    "surrogates",
    "testing",
    "twins",
]
__version__ = "0.1.0"

# Packages that a layer does not need are imported at their first use.
__getattr__: Callable[[str], Any] = later(
    __name__,
    {
        "blackprop": "conversion deployment foreign lab learning_rules monitoring optim testing",
        "blackprop.characterisation": "Characterisation characterise",
        "blackprop.deployment": "Adapter deploy",
    },
)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
