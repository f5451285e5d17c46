"""Run tracking: Weights & Biases and CSV."""
