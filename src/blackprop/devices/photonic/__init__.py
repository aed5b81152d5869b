"""Simulators of optical and magnonic devices."""
