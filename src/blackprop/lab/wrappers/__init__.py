"""Wrappers that guard, check, repeat and record the queries to a device."""
