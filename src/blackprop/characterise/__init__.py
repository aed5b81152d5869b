"""Find out what a device is, by asking it alone: `blackprop.characterise(device, budget)`."""

from blackprop.characterise.characterisation import Characterisation
from blackprop.characterise.characterise import characterise
from blackprop.characterise.conclusion import Conclusion
from blackprop.characterise.findings import Finding

__all__ = ["Characterisation", "Conclusion", "Finding", "characterise"]
