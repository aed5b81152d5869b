"""The contract tests: measure whether a device, an estimator, a surrogate or an optimizer fulfils its declaration.

They are for authors of such parts: call `check_device(my_device)` in a test, or on the bench before training. Each
function returns a `Report` of its measurements, or raises `ContractError` with the failed claim, the measured and the
declared value. All random numbers come from the passed generator, by default one seeded with 0.
"""

from blackprop.testing._bench import Report
from blackprop.testing._device import check_device
from blackprop.testing._estimator import check_estimator
from blackprop.testing._optimizer import check_optimizer
from blackprop.testing._surrogate import check_surrogate
from blackprop.testing.pulsed._check import check_pulsed

__all__ = ["Report", "check_device", "check_estimator", "check_optimizer", "check_pulsed", "check_surrogate"]
