"""Engines on disk: the store with its manifests, the lock, kits, and the checks before an engine is loaded."""
