"""Characterise an unknown device by querying it, and report the findings with a declaration."""

from blackprop.characterisation._characterisation import Characterisation
from blackprop.characterisation._characterise import characterise
from blackprop.characterisation._conclusion import Conclusion
from blackprop.characterisation._findings import Finding

__all__ = ["Characterisation", "Conclusion", "Finding", "characterise"]
