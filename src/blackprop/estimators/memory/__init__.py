"""Estimators that remember earlier measurements or gradients."""
