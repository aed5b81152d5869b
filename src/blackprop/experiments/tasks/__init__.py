"""Tasks: data, a network and an objective."""
