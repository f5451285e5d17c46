"""From Hydra's composed configuration to a checked, typed description of the cell."""
