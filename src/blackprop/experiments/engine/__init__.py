"""The training loop, its grid of runs, its prices and its allowances."""
