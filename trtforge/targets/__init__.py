"""Targets: the devices engines are built for, as data, and the facts of this machine's CPU."""
