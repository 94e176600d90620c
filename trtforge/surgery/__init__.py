"""Plugins in a graph: structures found by what they compute, a lowering chosen for the target, nodes swapped."""
