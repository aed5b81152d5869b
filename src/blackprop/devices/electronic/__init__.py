"""Simulators of electronic devices."""
