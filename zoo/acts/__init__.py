"""Activations: the kinds, how to swap a network's, and how to find those that are no modules."""
