"""The catalogue of errors: one file per family, one class per error."""

from trtforge.errors.base import EXIT_CODES, TrtforgeError, catalogue

__all__ = ["EXIT_CODES", "TrtforgeError", "catalogue"]
