"""Errors of samples, calibration and scales."""
