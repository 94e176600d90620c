"""Errors of compiling."""
