"""Deployment: carry a trained model to devices, and keep it working there."""

from blackprop.deployment._adapter import Adapter, KeptAdapter
from blackprop.deployment._deploy import deploy
from blackprop.deployment._file import load
from blackprop.deployment._judge import Score
from blackprop.deployment._ports import PortGains
from blackprop.deployment._report import Deployment, StageReport
from blackprop.deployment._sampled import SampledChips

__all__ = [
    "Adapter",
    "Deployment",
    "KeptAdapter",
    "PortGains",
    "SampledChips",
    "Score",
    "StageReport",
    "deploy",
    "load",
]
