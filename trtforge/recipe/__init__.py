"""Recipes: which engines to build for which target; read from YAML, checked, merged."""
