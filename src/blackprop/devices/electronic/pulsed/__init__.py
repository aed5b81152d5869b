"""Crossbars whose cells are moved by pulses."""
