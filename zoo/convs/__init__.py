"""The conv kinds: how one logical k×k convolution is realised."""

from zoo.convs.blueprint import Blueprint
from zoo.convs.separable import Separable
from zoo.convs.spatial import Spatial
from zoo.convs.spec import ConvSpec
from zoo.convs.standard import standard

KINDS = {"standard": standard, "separable": Separable, "blueprint": Blueprint, "spatial": Spatial}
"""Conv kind → what makes a module of it from a `ConvSpec`. ``native`` is not here: it leaves a network alone."""

__all__ = ["KINDS", "Blueprint", "ConvSpec", "Separable", "Spatial", "standard"]
