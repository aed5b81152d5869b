"""Grids of trials, run one after another, in parallel or on a cluster, and their files."""
