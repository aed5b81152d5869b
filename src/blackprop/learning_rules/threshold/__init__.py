"""Two-layer networks of steps, trained to the global optimum of a convex problem from measured patterns."""
