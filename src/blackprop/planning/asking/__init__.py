"""The surrogate that asks a device first, and its choice once the device is known."""
