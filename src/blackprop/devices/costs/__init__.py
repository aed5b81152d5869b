"""Costs of devices whose time and energy are published.

Each function states its source. A figure that the source does not state is an argument. Pass the result to a simulator
as `cost=...`.
"""

from blackprop.devices.costs._published import phase_change_core, scattering_processor, thermo_optic_chip

__all__ = ["phase_change_core", "scattering_processor", "thermo_optic_chip"]
