"""Estimators for devices that run both ways, or that are read inside."""
