"""The contract test of devices that take pulses."""
