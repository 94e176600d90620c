"""The DLA before the board: why a layer cannot run there, how the others are cut into loadables, what would help."""
