"""Tasks: each has data, a network, an objective and a training schedule."""
