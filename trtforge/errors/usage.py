"""Errors of wrong use of the command line."""
