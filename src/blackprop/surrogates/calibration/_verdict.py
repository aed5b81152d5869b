"""The findings of a calibration's check, and how well the batches of training have been explained since."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from blackprop.core._packing import pack
from blackprop.errors import CalibrationWarning
from blackprop.surrogates._monitor import LEFT

GUESSED = 0.5  # the expected cosine of slopes below which they are guesses, and withheld
OF_BEFORE = ("spread", "displaced", "calm", "excess", "check_found", "trusted", "moving", "said")


@dataclass(slots=True)
class Verdict:
    """The numbers by which a calibrated response decides. They live on the host, where decisions are made."""

    cosine: float = 0.0
    """The expected cosine of the slopes to the true ones."""
    signs: float = 0.0
    """The expected share of right signs."""
    settings: int = 0
    """How many settings the calibration took."""
    trusted: bool = True
    moving: bool = False
    """Whether elements moved during the calibration."""
    said: bool = False
    """Whether a warning was given."""
    spread: float = 0.0
    """The variance of an element of A that the calibration leaves."""
    calm: float = LEFT
    """The least excess of a batch since the calibration."""
    excess: float = 0.0
    """The residual of the latest batch over the normal one."""
    unexplained: float = 0.0
    """The variance of an element of A that would explain that residual, beyond the normal one."""

    def saw(self, wrong: float, normal: float, length: float) -> bool:
        """Take the mean square residual of a batch, where `normal` is expected of rows of this squared length; whether
        these numbers are finite, and not all zero.
        """
        if not (0 < normal < math.inf and wrong < math.inf):
            return False
        self.excess = math.sqrt(wrong / normal)
        self.calm = min(self.calm, self.excess)
        self.unexplained = max(0.0, wrong - normal) / length if length else 0.0
        return True

    @property
    def known(self) -> bool:
        """Whether the slopes are more than guesses."""
        return self.trusted or self.cosine > GUESSED

    def diagnosis(self) -> dict[str, float]:
        checked = {"check_cosine": self.cosine, "check_signs": self.signs, "check_settings": float(self.settings)}
        return {**checked, "trusted": float(self.trusted), "excess": self.excess}

    def warn(self, name: str, *, more: bool) -> None:
        """Warn once that a calibration does not explain the device, and of the consequence; `more`: whether the user
        named the number of settings.
        """
        if self.said:
            return
        self.said = True
        if self.moving:
            advice = "the device moves while it is calibrated: steady it, or calibrate in fewer settings"
        elif more:
            advice = "let `CalibratedResponse()` ask for more settings (`settings=None`), or name more"
        else:
            advice = "more settings, `CalibratedResponse(settings=...)`, or less noise may help; so may a wider budget"
        then = "with them" if self.known else "without them, so that θ stays"
        warnings.warn(
            f"{name}: {self.settings} settings do not explain the responses of its elements: slopes should agree "
            f"with the true ones to a cosine of {self.cosine:.2f} and in {100 * self.signs:.0f} % of the signs. "
            f"Training continues {then}, and the matrix is corrected by the training rows; "
            f"{advice}, or take an estimator that queries, such as `DirectionalMemory`",
            CalibrationWarning,
            stacklevel=2,
        )


def migrated(state_dict: dict[str, Any], prefix: str) -> None:
    """Turn the state of a calibrated response that held these numbers in buffers into one of now."""
    if prefix + "check_found" not in state_dict:
        return
    was: Mapping[str, Tensor] = {n: state_dict.pop(prefix + n) for n in OF_BEFORE if prefix + n in state_dict}
    state_dict.pop(prefix + "used", None)  # of a state older still, whose unused orders are zeros
    cosine, signs, settings = was["check_found"].tolist()
    squared = float(state_dict[prefix + "slope"].square().mean())
    now = {
        "cosine": cosine,
        "signs": signs,
        "settings": int(settings),
        **{name: bool(was.get(name, False)) for name in ("trusted", "moving", "said")},
        **{name: float(was[name]) for name in ("spread", "calm", "excess")},
        "unexplained": float(was["displaced"]) ** 2 * squared,
    }
    state_dict[prefix + "_extra_state"] = pack(now)
