"""All exceptions that the library raises on purpose.

```
BlackpropError
├── ArgumentError        a value that an object cannot be built with        (also a ValueError)
├── IncompatibleError    two parts that cannot work together                (also a ValueError)
├── ShapeError           rows or settings of the wrong size                 (also a ValueError)
├── LimitError           a setting or a row outside the device's limits, or not finite (also a ValueError)
├── ReadingError         a device returned an unusable reading
├── DeviceError          a device, or the link to it, failed
│   ├── UnreachableError the device did not answer; the round was not measured
│   ├── ProtocolError    a message that is damaged, or of another version
│   ├── BusyError        another client holds the device
│   ├── InterlockError   a guard forbade the setting, or has stopped the device
│   └── InDoubtError     a round that may have been measured, and whose answer is lost
├── BudgetExhausted      the next round would exceed the budget
├── SurrogateError       a surrogate that cannot give the requested gradient
├── SecondDerivativeError
├── SubstitutionError    a layer that cannot be replaced                    (also a ValueError)
├── CheckpointError      a file that is damaged or foreign
├── RunFolderError       a run folder that exists, or does not match
├── DataError            a data set that is missing or damaged
└── ContractError        a shipped contract test that failed                (also an AssertionError)

BlackpropWarning         (a UserWarning)
├── CalibrationWarning   a calibration that does not explain the device
├── NoisyGradientWarning a device whose training may do more harm than good
├── DeviceChangedWarning a device whose answers differ from those in a checkpoint
└── PulseWarning         pulses that do not move the cells of a device
```

Errors are raised before any query is spent or any state is changed. `ReadingError` and `DeviceError` are the
exceptions: the device has then received queries, and the ledger holds their possible cost.
"""

from __future__ import annotations


class BlackpropError(Exception):
    """Base class of all errors of the library."""


class ArgumentError(BlackpropError, ValueError):
    """An object cannot be built with this value. The message gives the value and the allowed range."""


class IncompatibleError(BlackpropError, ValueError):
    """Two parts cannot work together. The message gives the reason."""


class ShapeError(BlackpropError, ValueError):
    """Rows or settings have the wrong size."""


class LimitError(BlackpropError, ValueError):
    """A setting or a row is outside the device's limits, or not finite."""


class ReadingError(BlackpropError, RuntimeError):
    """A device returned an unusable reading: wrong shape, dtype or place, or not finite."""


class DeviceError(BlackpropError, RuntimeError):
    """A device, or the link to it, failed."""


class UnreachableError(DeviceError):
    """The device could not be reached, or did not answer. The round was not measured."""


class ProtocolError(DeviceError):
    """A message is damaged, or of another version."""


class BusyError(DeviceError):
    """Another client holds the device."""


class InterlockError(DeviceError):
    """A guard of the device forbade a setting, or has stopped the device."""


class InDoubtError(DeviceError):
    """A round may have been measured, and its answer is lost. Repeating it may measure it twice."""


class BudgetExhausted(BlackpropError, RuntimeError):
    """The next round of queries would exceed the budget. It was not measured."""


class SurrogateError(BlackpropError, RuntimeError):
    """A surrogate does not know the setting at which a gradient was requested."""


class SecondDerivativeError(BlackpropError, RuntimeError):
    """A second derivative through a black box was requested."""


class SubstitutionError(BlackpropError, ValueError):
    """A layer cannot be replaced. The model is unchanged."""


class CheckpointError(BlackpropError, RuntimeError):
    """A checkpoint is damaged, or was not written by this library."""


class RunFolderError(BlackpropError, RuntimeError):
    """A run folder exists already, or belongs to another configuration."""


class DataError(BlackpropError, RuntimeError):
    """A data set is missing or damaged."""


class ContractError(BlackpropError, AssertionError):
    """A device, estimator or surrogate does not fulfil its declaration."""


class BlackpropWarning(UserWarning):
    """Base class of all warnings of the library."""


class CalibrationWarning(BlackpropWarning):
    """A calibration does not explain settings and rows that it was not fitted to."""


class NoisyGradientWarning(BlackpropWarning):
    """The gradient for a device's parameters is noise, and training with it may do more harm than good."""


class DeviceChangedWarning(BlackpropWarning):
    """A device's answers differ from those in the checkpoint that its layer has loaded."""


class PulseWarning(BlackpropWarning):
    """The cells of a pulsed device do not move: a step is far below one pulse, or no optimizer sends pulses."""
