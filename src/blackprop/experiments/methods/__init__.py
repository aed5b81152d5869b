"""The training methods that an experiment compares."""
