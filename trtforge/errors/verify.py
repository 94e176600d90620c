"""Errors of verification."""
