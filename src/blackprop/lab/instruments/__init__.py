"""Drivers of instruments on a bench."""
