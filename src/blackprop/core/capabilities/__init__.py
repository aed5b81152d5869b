"""Capabilities: the actions of a device beyond program and read."""
