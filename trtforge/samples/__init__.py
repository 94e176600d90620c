"""Samples: what goes through a network in calibration and verification, and the sets it is listed in."""
