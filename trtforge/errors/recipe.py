"""Errors of recipes and targets."""
