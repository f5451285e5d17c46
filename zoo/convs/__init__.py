"""Conv kinds: the ways to realise one logical k×k convolution. Each registers itself, as a plugin's does."""

# Their order is that of the tables.
# isort: off
from zoo.convs import standard, separable, blueprint, spatial, separable_spatial, grouped  # noqa: F401
# isort: on

from zoo.convs.between import Between, bn_act, nothing
from zoo.convs.factored import Factored
from zoo.convs.kinds import KINDS, conv_kind, factored_kinds, find_kind, kind_options, make_conv
from zoo.convs.spec import ConvSpec

__all__ = [
    "KINDS",
    "Between",
    "ConvSpec",
    "Factored",
    "bn_act",
    "conv_kind",
    "factored_kinds",
    "find_kind",
    "kind_options",
    "make_conv",
    "nothing",
]
