"""Conv kinds: the ways to realise one logical k×k convolution. Each registers itself, as a plugin's does."""

# Their order is that of the tables.
# isort: off
from zoo.convs import standard, separable, blueprint, spatial, separable_spatial, grouped  # noqa: F401
# isort: on

from zoo.convs.between import Between, bn_act, nothing
from zoo.convs.factored import Factored
from zoo.convs.kinds import KINDS, closed_forms, conv_kind, find_kind, kind_options, make_conv
from zoo.convs.low_rank import FromDense, low_rank
from zoo.convs.spec import ConvSpec

__all__ = [
    "KINDS",
    "Between",
    "ConvSpec",
    "Factored",
    "FromDense",
    "bn_act",
    "closed_forms",
    "conv_kind",
    "find_kind",
    "kind_options",
    "low_rank",
    "make_conv",
    "nothing",
]
