"""Surrogates and checks that start from a calibration."""
