"""The curves of all elements: of a family where that predicts readings better, else under a stationary prior."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from blackprop.surrogates.calibration._curve_family import CurveFamily, learn, relearn
from blackprop.surrogates.calibration._posterior import Posterior, better_of
from blackprop.surrogates.calibration._spectra import Spectra
from blackprop.surrogates.calibration._waves import advanced

LEARNT_FROM = 192  # elements, at most
FEWEST = 3  # elements that a family is learnt from
STRAY = 5.0  # by which the logarithm of the likelihood is greater without the family, of strays
TOGETHER = 512  # elements whose curves are found together


@dataclass(frozen=True)
class CurveFit:
    """Curves through samples at `turns` (K, G)."""

    found: Spectra
    family: CurveFamily | None
    turns: Tensor

    @property
    def noise(self) -> float:
        """The variance of a sample about its curve."""
        return self.found.noise if self.family is None else self.family.noise

    def posterior(self, group: Tensor, values: Tensor) -> Posterior:
        """The curves of elements of `group` (E,) through their samples `values` (K, E)."""
        if self.family is None:
            return self.found.posterior(group, values)
        family = self.family.posterior(self.turns, group, values)
        return better_of(family, self.found.posterior(group, values), STRAY)

    def own(self, group: Tensor, values: Tensor) -> Tensor:
        """The coefficients (P, n) that elements of a family add to the common curve."""
        coefficients = values.new_zeros(len(group), len(self.found.common))
        for some in group.argsort(stable=True).split(TOGETHER):
            curves = self.posterior(group[some].long(), values[:, some])
            mean = curves.curves if curves.even else advanced(curves.curves, curves.phase)
            coefficients[some] = (mean - self.found.common).to(values)
        return coefficients

    @property
    def learnt(self) -> float:
        """How many coefficients a family has learnt."""
        return 0.0 if self.family is None else self.family.learnt

    def as_family(self, group: Tensor, values: Tensor, floor: float) -> CurveFit:
        """The same elements as a family, learnt from those of `group` (E,) with samples `values` (K, E)."""
        guess = self.found.posterior(group, values)
        even = self.found.samples.even
        family = learn(self.turns, values, group, guess.curves, even, self.noise, floor)
        return CurveFit(self.found, family, self.turns)

    def following(self, other: CurveFit, group: Tensor, values: Tensor, floor: float) -> CurveFit:
        """The same elements as a family, where `other` is one of a part of these samples."""
        if other.family is None:
            return self
        return CurveFit(self.found, relearn(other.family, self.turns, values, group, floor), self.turns)


def preferred(family: Posterior, other: Posterior, learnt: float) -> bool:
    """Whether curves of a family explain each sample from the others of its element better, by more than `learnt`
    coefficients that were fitted to all of them would by chance.
    """
    return float((family.score - other.score).sum()) > learnt
