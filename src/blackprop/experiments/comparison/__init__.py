"""Grids of trials, carried out in turn, side by side or by a cluster, and their files."""
