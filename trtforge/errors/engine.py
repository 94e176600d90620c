"""Errors of the engine store and loading."""
