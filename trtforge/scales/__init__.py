"""Scales: ranges of tensors collected by calibration, their table with a receipt, and the forms targets speak."""
