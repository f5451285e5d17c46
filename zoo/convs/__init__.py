"""Conv kinds: the ways to realise one logical k×k convolution."""

from zoo.convs.between import Between, bn_act, nothing
from zoo.convs.blueprint import Blueprint
from zoo.convs.factored import Factored
from zoo.convs.grouped import grouped, possible_groups
from zoo.convs.separable import Separable
from zoo.convs.separable_spatial import SeparableSpatial
from zoo.convs.spatial import Spatial
from zoo.convs.spec import ConvSpec
from zoo.convs.standard import standard

KINDS = {
    "standard": standard,
    "separable": Separable,
    "blueprint": Blueprint,
    "spatial": Spatial,
    "separable_spatial": SeparableSpatial,
    "grouped": grouped,
}
"""Conv kind → class or function that makes its module from a `ConvSpec`. ``native`` is absent: it changes nothing."""

FACTORED = ("separable", "blueprint", "spatial", "separable_spatial")
"""The kinds that are made of factors and can have a module ``between`` two of them."""

__all__ = [
    "FACTORED",
    "KINDS",
    "Between",
    "Blueprint",
    "ConvSpec",
    "Factored",
    "Separable",
    "SeparableSpatial",
    "Spatial",
    "bn_act",
    "grouped",
    "nothing",
    "possible_groups",
    "standard",
]
