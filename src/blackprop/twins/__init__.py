"""Twins: differentiable models of devices, whose unknown errors `surrogates.Twin` fits to the device's readings."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from blackprop._later import later

if TYPE_CHECKING:
    from blackprop.twins._chain import ChainTwin
    from blackprop.twins._crossbar import CrossbarTwin
    from blackprop.twins._error_network import ErrorNetwork
    from blackprop.twins._fibre import MultimodeFibreTwin
    from blackprop.twins._in_memory import InMemoryTwin
    from blackprop.twins._mlp import MLPTwin
    from blackprop.twins._physical import (
        DiffractionTwin,
        LightModulatorTwin,
        MeshTwin,
        MicroringTwin,
        OffsetTwin,
        PhysicalTwin,
    )
    from blackprop.twins.chips import CalibratedChip, ChipTwin, Precision

__all__ = [
    "CalibratedChip",
    "ChainTwin",
    "ChipTwin",
    "CrossbarTwin",
    "DiffractionTwin",
    "ErrorNetwork",
    "InMemoryTwin",
    "LightModulatorTwin",
    "MLPTwin",
    "MeshTwin",
    "MicroringTwin",
    "MultimodeFibreTwin",
    "OffsetTwin",
    "PhysicalTwin",
    "Precision",
]

# Each twin is imported at its first use.
__getattr__: Callable[[str], Any] = later(
    __name__,
    {
        "blackprop.twins._chain": "ChainTwin",
        "blackprop.twins._crossbar": "CrossbarTwin",
        "blackprop.twins._error_network": "ErrorNetwork",
        "blackprop.twins._fibre": "MultimodeFibreTwin",
        "blackprop.twins._in_memory": "InMemoryTwin",
        "blackprop.twins._mlp": "MLPTwin",
        "blackprop.twins._physical": "DiffractionTwin LightModulatorTwin MeshTwin MicroringTwin OffsetTwin "
        "PhysicalTwin",
        "blackprop.twins.chips": "CalibratedChip ChipTwin Precision",
    },
)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
