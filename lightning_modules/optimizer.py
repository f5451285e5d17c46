"""Creates a cell's optimizer."""

from __future__ import annotations

from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any

import torch
from timm.optim import create_optimizer_v2, get_optimizer_class, list_optimizers, param_groups_weight_decay
from torch import nn

from lightning_modules.config.objects import TARGET, make
from lightning_modules.config.schema import OptimOptions
from zoo.errors import ConvzooError, choose, one_line
from zoo.registry import Registry

FUSED = ("adamw", "adam", "sgd")
"""Optimizers for which torch has a fused implementation."""

OURS = ("params", "lr", "weight_decay", "fused", "maximize", "differentiable", "capturable")
"""Arguments of optimizers that are not options: they have a key of their own, or no use in training."""

OURS_ALONE = {field.name for field in fields(OptimOptions)} - {"lr", "weight_decay", "given", "options"}
"""Keys of the optim group that are no argument of an optimizer."""


@cache
def _registry(name: str) -> Registry:
    """Returns a registry of one of timm's optimizers, with its own arguments as options."""
    choose("optim.name", name, list_optimizers())
    registry = Registry("optim")
    try:
        kind = get_optimizer_class(name, bind_defaults=False)
    except (AssertionError, ImportError) as error:
        raise ConvzooError(f"optim.name={name} cannot be used here: {one_line(error)}.") from None
    registry.register(name, leave_out=OURS)(kind)
    return registry


def check_optimizer(optim: OptimOptions) -> None:
    """Checks the optimizer's name and its own options (``optim.betas=[0.9,0.95]``).

    Raises:
        ConvzooError: The name or an option does not exist, or a value is not allowed.
    """
    if TARGET not in optim.options:
        own_keys = tuple(key for key in optim.given if key not in optim.options)
        _registry(optim.name).check(optim.name, optim.options, own_keys)
    try:
        make_optimizer(nn.Linear(1, 1), optim.plain())
    except (TypeError, ValueError, AssertionError, RuntimeError) as error:
        raise ConvzooError(f"optim={optim.name} refuses these options: {one_line(error)}.") from None


def make_optimizer(net: nn.Module, optim: dict[str, Any]) -> torch.optim.Optimizer:
    """Creates the optimizer of the optim group: any of timm's by name, or what ``_target_`` names in a file.

    Biases and BatchNorm get no weight decay.

    Args:
        net: The network.
        optim: ``name``, ``lr``, ``weight_decay``, and options of the optimizer itself.

    Raises:
        ConvzooError: There is no optimizer of that name.
    """
    name = optim["name"]
    if TARGET in optim:
        own = {key: value for key, value in optim.items() if key not in OURS_ALONE}
        weights = param_groups_weight_decay(net, optim["weight_decay"])
        return make("optim", own, Path(), torch.optim.Optimizer, params=weights)
    known = _registry(name)[name].options
    options = {key: tuple(v) if isinstance(v, list) else v for key, v in optim.items() if key in known}
    fused = {"fused": True} if name in FUSED else {}
    usual = {"lr": optim["lr"], "weight_decay": optim["weight_decay"], "momentum": 0.9}
    return create_optimizer_v2(net, name, **{**usual, **fused, **options})
