"""The costs of the actions of a device: seconds and joules."""
