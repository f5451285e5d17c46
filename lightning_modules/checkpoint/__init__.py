"""Checkpoints: the best, the last, and resuming a stopped run."""
