"""Lint: what will go wrong with a model and a recipe on a target, said before anything is built; one rule a file."""
