"""Creates a cell's optimizer."""

from __future__ import annotations

from typing import Any

import torch
from timm.optim import create_optimizer_v2, list_optimizers
from torch import nn

from zoo.errors import choose

FUSED = ("adamw", "adam", "sgd")
"""Optimizers for which torch has a fused implementation."""


def make_optimizer(net: nn.Module, optim: dict[str, Any]) -> torch.optim.Optimizer:
    """Creates the optimizer of the optim group, any of timm's by name; no weight decay on biases and BatchNorm.

    Raises:
        ConvzooError: There is no optimizer of that name.
    """
    choose("optim.name", optim["name"], list_optimizers())
    fused = {"fused": True} if optim["name"] in FUSED else {}
    return create_optimizer_v2(
        net, optim["name"], lr=optim["lr"], weight_decay=optim["weight_decay"], momentum=0.9, **fused
    )
