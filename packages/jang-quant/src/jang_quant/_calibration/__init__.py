"""Calibration: text run through the source model, and what its modules see of it."""
