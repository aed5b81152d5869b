"""Light through a mesh in compiled code, where Numba is installed."""
