"""Sequence tasks for reservoirs."""
