"""Calibration of a run: temperature, threshold and abstention band."""
