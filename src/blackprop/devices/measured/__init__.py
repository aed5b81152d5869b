"""Devices made from a user's own measurements."""
