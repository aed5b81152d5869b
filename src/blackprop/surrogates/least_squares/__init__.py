"""Surrogates fitted to the readings of training by recursive least squares."""
