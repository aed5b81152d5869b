"""What the contract tests try their checks on: every simulator at a small size."""

from __future__ import annotations

import blackprop as bp
from blackprop.devices import Diffraction, chips

SIMULATORS = [
    bp.devices.Matrix(5, 4),
    bp.devices.LightModulator(5, 4),
    bp.devices.Microring(5, 4),
    bp.devices.MeasuredElements([0.0, 0.5, 1.0, 2.0], [1.0, 0.7, 0.2, 0.0], 5, 4),
    bp.devices.LowRank(5, 4, rank=2),
    bp.devices.Resampling(5, 4),
    bp.devices.MZIMesh(3, 4),
    bp.devices.ThreeSplitterMesh(4, 3),
    bp.devices.Monarch(4, 3),
    bp.devices.Chip(chips.Rectangular(), 3, 4),
    bp.devices.Chip(chips.Rectangular(splitters=3), 4, 2, readout=chips.Balanced(responsivity=0.1, dark=0.01)),
    bp.devices.Chip(chips.Triangular(), 5, 4, heaters=chips.Heaters(quartic=0.05), losses=chips.Losses(port=1.0)),
    bp.devices.Chip(chips.Butterfly(), 4, 3, modes=8, readout=chips.Power(responsivity=0.1, dark=0.01)),
    bp.devices.SVDMesh(bp.devices.Chip(chips.Rectangular(), 4, 3), bp.devices.Chip(chips.Triangular(), 3, 5)),
    bp.devices.CoupledModes(4, 3),
    bp.devices.CoupledModes(3, 2, kerr=0.02),
    bp.devices.MirroredDiffraction(9, 4, planes=2),
    Diffraction(9, 4),
    Diffraction(4, 4, double=True),
    Diffraction(4, 4, encoding=Diffraction.Encoding.PHASE),
    Diffraction(4, 9, encoding=Diffraction.Encoding.PHASE_AMPLITUDE),
]
LINEAR = [device for device in SIMULATORS if device.linear]


def tag(value: object) -> str:
    return str(value).replace("RandomDirections", "")
