"""State of a training run beyond what Lightning saves: that of other ranks, and of an unfinished epoch's metrics."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torchmetrics import Metric

States = dict[str, dict[str, torch.Tensor]]
"""Metric name → state name → value."""


def of_all_ranks(value: Any) -> list[Any]:
    """Returns the values that all ranks pass, in order of rank."""
    if not dist.is_initialized():
        return [value]
    values = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def training_metrics(module: torch.nn.Module) -> States:
    """Returns the states of this rank's training metrics in the unfinished epoch."""
    return {
        name: {k: getattr(metric, k).cpu().clone() for k, v in metric._defaults.items() if isinstance(v, torch.Tensor)}
        for name, metric in module.named_modules()
        if isinstance(metric, Metric) and metric.update_called
    }


def restore_metrics(module: torch.nn.Module, states: States) -> None:
    """Restores metrics to states from `training_metrics`."""
    for name, values in states.items():
        metric = module.get_submodule(name)
        for state, value in values.items():
            setattr(metric, state, value.to(metric.device))
        metric._update_count = 1


def of_rank(rank: int, ranks: int, saved: list[States] | States) -> States:
    """Returns the metric states of a rank.

    With as many ranks as before, each gets its own states, so that the final sum is identical to the bit. With another
    number of ranks, rank 0 gets the sum over all saved states, and the others start from zero.

    Args:
        rank: The rank.
        ranks: Number of ranks.
        saved: The states of all ranks; older checkpoints hold their sum.
    """
    saved = [saved] if isinstance(saved, dict) else saved
    if len(saved) == ranks:
        return saved[rank]
    first = saved[0] if saved else {}
    return {n: {k: sum(states[n][k] for states in saved) * (rank == 0) for k in kept} for n, kept in first.items()}
