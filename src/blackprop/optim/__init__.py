"""Optimizers that know of devices."""

from blackprop.optim.signal_scaled import SignalScaled

__all__ = ["SignalScaled"]
