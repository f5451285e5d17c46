"""Activations: the kinds, swapping those of a network, and detecting those that are not modules."""
