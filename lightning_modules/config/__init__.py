"""Turns Hydra's composed configuration into a checked, typed description of the cell."""
