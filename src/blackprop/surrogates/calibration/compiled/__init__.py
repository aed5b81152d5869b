"""Response curves read in compiled code, where Numba is installed."""
