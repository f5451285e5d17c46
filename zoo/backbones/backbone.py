"""Registers a user's own network function, with timm and as ``model=NAME``."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

import timm
from torch import nn

from zoo.backbones.families import FAMILIES, Family, register_family
from zoo.backbones.scaled_builders import OWN_SCALING
from zoo.errors import ConvzooError, UnfitError
from zoo.image_size import ImageSize, Size

Make = TypeVar("Make", bound=Callable[..., nn.Module])

TIMM_ONLY = ("pretrained_cfg", "pretrained_cfg_overlay", "cache_dir")
"""Arguments that timm passes to every network function."""


def backbone(name: str | None = None, *, image_size: Size = 224) -> Callable[[Make], Make]:
    """Registers a function that makes a network: ``model=NAME``, and NAME for timm.

    The function takes ``num_classes`` and ``in_chans``. If it takes ``width`` and ``depth`` too (factors; 1 as it is),
    the network can be scaled (``scale=…``) and matched to a budget (``model.match=…``). A network that is registered
    with ``timm.models.register_model`` needs no more: it is ``model=timm model.name=NAME``.

    Args:
        name: What users type; by default the function's name.
        image_size: The size that the network was designed for, for tables of its cost: H = W, or (H, W).

    Raises:
        ConvzooError: The name is taken, or the function does not take these arguments.

    Example:
        ```python
        @zoo.backbone("tinynet", image_size=32)
        def tinynet(num_classes=1000, in_chans=3, width=1.0, depth=1.0):
            ...
        ```
    """

    def add(make: Make) -> Make:
        called = name or make.__name__
        parameters = inspect.signature(make).parameters
        if missing := [key for key in ("num_classes", "in_chans") if key not in parameters]:
            raise ConvzooError(f"the backbone {called} must take {' and '.join(missing)}.")
        if called not in FAMILIES and timm.is_model(called):
            raise ConvzooError(f"timm has a network {called} already. Choose another name for this backbone.")
        register_family(
            called, Family({called: called}, {called: ImageSize.of(image_size).plain}, module=make.__module__)
        )
        timm.models.register_model(_for_timm(called, make))
        if {"width", "depth"} <= set(parameters):
            OWN_SCALING.add(called)
        return make

    return add


def _for_timm(name: str, make: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
    """Wraps a network function as timm calls it."""

    @wraps(make)
    def entrypoint(pretrained: bool = False, **settings: Any) -> nn.Module:
        if pretrained:
            raise UnfitError(f"{name} has no pretrained weights. Type model.pretrained=false.")
        net = make(**{key: value for key, value in settings.items() if key not in TIMM_ONLY})
        for key in ("num_classes", "in_chans"):
            if not hasattr(net, key) and key in settings:
                setattr(net, key, settings[key])
        return net

    entrypoint.__name__ = name
    return entrypoint
