"""The calibration of any feed-forward chip, layer by layer from its inputs: all designs, fields and powers."""
