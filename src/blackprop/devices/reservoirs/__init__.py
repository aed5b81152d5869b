"""Simulators of devices that remember their past inputs."""
