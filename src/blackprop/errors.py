"""Everything the library raises on purpose.

```
BlackpropError
├── ArgumentError        a value that an object cannot be built with        (also a ValueError)
├── IncompatibleError    two parts that cannot work together                (also a ValueError)
├── ShapeError           rows or settings of the wrong size                 (also a ValueError)
├── LimitError           a setting or a row outside the device's limits, or not finite (also a ValueError)
├── ReadingError         what a device returned cannot be used
├── DeviceError          a device, or the way to it, failed
│   ├── UnreachableError the device could not be asked; nothing of the round was measured
│   ├── ProtocolError    a message that is damaged, or of another version
│   ├── BusyError        somebody else holds the device
│   ├── InterlockError   what guards the device forbade it, or has stopped it
│   └── InDoubtError     a round that may have been measured, its answer lost
├── BudgetExhausted      the next query would exceed the budget
├── SurrogateError       a gradient asked of a surrogate that cannot give it
├── SecondDerivativeError
├── SubstitutionError    a layer that cannot be replaced                    (also a ValueError)
├── CheckpointError      a file that is damaged or not ours
├── RunFolderError       a run folder that exists, or does not fit
├── DataError            a data set that is missing or damaged
└── ContractError        a shipped contract test that failed                (also an AssertionError)

BlackpropWarning         (a UserWarning)
├── CalibrationWarning   a calibration that does not explain the device
├── NoisyGradientWarning a device whose training does more harm than good
└── DeviceChangedWarning a device that answers otherwise than when a checkpoint was written
```

All are raised before anything is spent or changed, `ReadingError` and `DeviceError` apart: there the device was asked,
and the ledger holds what that may have cost.
"""

from __future__ import annotations


class BlackpropError(Exception):
    """The root of the tree."""


class ArgumentError(BlackpropError, ValueError):
    """A value that an object cannot be built with: what was given, what is allowed."""


class IncompatibleError(BlackpropError, ValueError):
    """Two parts that cannot work together, and why."""


class ShapeError(BlackpropError, ValueError):
    """Rows or settings of the wrong size."""


class LimitError(BlackpropError, ValueError):
    """A setting or a row that is outside the device's limits, or not finite."""


class ReadingError(BlackpropError, RuntimeError):
    """A device returned something unusable: wrong shape, dtype or place, or not finite."""


class DeviceError(BlackpropError, RuntimeError):
    """A device, or the way to it, failed."""


class UnreachableError(DeviceError):
    """The device could not be asked, or did not answer; nothing of the round was measured."""


class ProtocolError(DeviceError):
    """A message that is damaged, or of another version."""


class BusyError(DeviceError):
    """Somebody else holds the device."""


class InterlockError(DeviceError):
    """What guards the device forbade a setting, or has stopped it altogether."""


class InDoubtError(DeviceError):
    """A round that may have been measured, and whose answer is lost: asking again may measure it twice."""


class BudgetExhausted(BlackpropError, RuntimeError):
    """The next round of queries would exceed the budget; nothing of it was measured."""


class SurrogateError(BlackpropError, RuntimeError):
    """A surrogate was asked for a gradient at a setting that it does not know."""


class SecondDerivativeError(BlackpropError, RuntimeError):
    """A second derivative through a black box was asked for."""


class SubstitutionError(BlackpropError, ValueError):
    """A layer that cannot be replaced; nothing was."""


class CheckpointError(BlackpropError, RuntimeError):
    """A checkpoint that is damaged, or not one of ours."""


class RunFolderError(BlackpropError, RuntimeError):
    """A run folder that exists already, or belongs to another configuration."""


class DataError(BlackpropError, RuntimeError):
    """A data set that is missing or damaged."""


class ContractError(BlackpropError, AssertionError):
    """A device, estimator or surrogate does not do what it declares."""


class BlackpropWarning(UserWarning):
    """The root of what the library warns of."""


class CalibrationWarning(BlackpropWarning):
    """A calibration does not explain settings and rows that it was not fitted to."""


class NoisyGradientWarning(BlackpropWarning):
    """The gradient for a device's parameters is noise, and training with it may do more harm than good."""


class DeviceChangedWarning(BlackpropWarning):
    """A device answers otherwise than when the checkpoint was written that a layer has loaded."""
