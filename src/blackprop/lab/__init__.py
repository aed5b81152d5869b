"""Real devices: instruments on a bench, and the way to them over a network."""
