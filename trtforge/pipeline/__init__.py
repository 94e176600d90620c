"""The way from a recipe to a checked engine: the only room that knows every other, and the Python API's front door."""
