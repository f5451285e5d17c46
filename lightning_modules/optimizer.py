"""A cell's optimizer."""

from __future__ import annotations

from typing import Any

import torch
from timm.optim import create_optimizer_v2, list_optimizers
from torch import nn

from zoo.errors import choose

FUSED = ("adamw", "adam", "sgd")
"""Optimizers that torch has as one operation over all weights."""


def make_optimizer(net: nn.Module, optim: dict[str, Any]) -> torch.optim.Optimizer:
    """The optimizer of the optim group: any of timm's by name; biases and BatchNorms do not decay.

    Raises:
        ConvzooError: A name that does not exist.
    """
    choose("optim.name", optim["name"], list_optimizers())
    fused = {"fused": True} if optim["name"] in FUSED else {}
    return create_optimizer_v2(
        net, optim["name"], lr=optim["lr"], weight_decay=optim["weight_decay"], momentum=0.9, **fused
    )
