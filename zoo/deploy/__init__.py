"""A trained network outside of its run: read a checkpoint, export it."""
