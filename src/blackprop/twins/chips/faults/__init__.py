"""Faults of a chip: ports without light, overdriven detectors, dead shifters, columns that have moved."""
