"""Saves and restores the states of a process's random generators."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch


def random_states(device: torch.device) -> dict[str, Any]:
    """Returns all states, as values that ``torch.load(weights_only=True)`` accepts.

    Args:
        device: The device of the process; a GPU has its own generator.
    """
    kind, keys, position, has_gauss, gauss = np.random.get_state()
    return {
        "python": random.getstate(),
        "numpy": (kind, torch.from_numpy(keys.astype(np.int64)), position, has_gauss, gauss),
        "torch": torch_states(device),
    }


def set_random_states(states: dict[str, Any], device: torch.device) -> None:
    """Restores all generators to states from `random_states`."""
    random.setstate(states["python"])
    kind, keys, *rest = states["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))
    set_torch_states(states["torch"], device)


def torch_states(device: torch.device) -> dict[str, torch.Tensor]:
    """Returns the states of torch's generators, the only ones a step draws from; does not synchronize the GPU."""
    states = {"cpu": torch.get_rng_state()}
    return states | {"cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else states


def set_torch_states(states: dict[str, torch.Tensor], device: torch.device) -> None:
    """Restores torch's generators to states from `torch_states`."""
    torch.set_rng_state(states["cpu"].cpu())
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"].cpu(), device)
