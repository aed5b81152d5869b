"""Low-rank surrogates and their integrators."""
