"""The training methods that experiments compare."""
