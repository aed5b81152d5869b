"""`PhysicalLayer`, a device as a PyTorch module, and functions of models that contain one."""

from blackprop.nn._diagnostics import Diagnosis, SignalMeter, advise, diagnose
from blackprop.nn._layer import PhysicalLayer
from blackprop.nn._state import for_another_device
from blackprop.nn._substitute import ledger, param_groups, substitute

__all__ = [
    "Diagnosis",
    "PhysicalLayer",
    "SignalMeter",
    "advise",
    "diagnose",
    "for_another_device",
    "ledger",
    "param_groups",
    "substitute",
]
