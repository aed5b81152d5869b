"""The contract tests: what a device, an estimator, a surrogate or an optimizer declares, held against what it does.

They are for whoever writes one: call `check_device(my_device)` in a test, or on the bench before training. Each returns
a `Report` of what was measured, or raises `ContractError` with the claim that failed, what was measured and what was
declared. All random numbers come from the generator that is passed, by default one seeded with 0.
"""

from blackprop.testing._bench import Report
from blackprop.testing._device import check_device
from blackprop.testing._estimator import check_estimator
from blackprop.testing._optimizer import check_optimizer
from blackprop.testing._surrogate import check_surrogate

__all__ = ["Report", "check_device", "check_estimator", "check_optimizer", "check_surrogate"]
