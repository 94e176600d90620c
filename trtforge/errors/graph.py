"""Errors of models and graph surgery."""
