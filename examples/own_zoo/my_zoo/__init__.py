"""Choices of our own. Importing this package registers them; ``plugins=[my_zoo]`` does that in every process."""

from my_zoo import activations, convolutions, data, networks

__all__ = ["activations", "convolutions", "data", "networks"]
