"""The conv kinds: how one logical k×k convolution is realised."""

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
"""Conv kind → what makes a module of it from a `ConvSpec`. ``native`` is not here: it leaves a network alone."""

FACTORED = ("separable", "blueprint", "spatial", "separable_spatial")
"""The kinds that have a place between two factors (``between``)."""

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
