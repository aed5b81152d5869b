"""Find out what a device is, by asking it alone: `blackprop.characterise(device, budget)`."""

from blackprop.characterise.characterise import characterise
from blackprop.characterise.findings import Characterisation, Finding

__all__ = ["Characterisation", "Finding", "characterise"]
