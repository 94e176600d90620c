"""Volumes: from a scan's file to the network's grid, and labels back onto the file's grid."""
