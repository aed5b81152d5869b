"""Spiking neurons in compiled code, where Numba is installed."""
