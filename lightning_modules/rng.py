"""The states of the random generators of a process."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch


def random_states(device: torch.device) -> dict[str, Any]:
    """All states, as values that ``torch.load(weights_only=True)`` takes.

    Args:
        device: Where the process computes; a GPU has a generator of its own.
    """
    kind, keys, position, has_gauss, gauss = np.random.get_state()
    return {
        "python": random.getstate(),
        "numpy": (kind, torch.from_numpy(keys.astype(np.int64)), position, has_gauss, gauss),
        "torch": torch_states(device),
    }


def set_random_states(states: dict[str, Any], device: torch.device) -> None:
    """Puts the generators back to where they were."""
    random.setstate(states["python"])
    kind, keys, *rest = states["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))
    set_torch_states(states["torch"], device)


def torch_states(device: torch.device) -> dict[str, torch.Tensor]:
    """Those of torch's generators, which are all that a step draws from; a GPU does not have to wait for it."""
    states = {"cpu": torch.get_rng_state()}
    return states | {"cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else states


def set_torch_states(states: dict[str, torch.Tensor], device: torch.device) -> None:
    """The opposite of `torch_states`."""
    torch.set_rng_state(states["cpu"].cpu())
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"].cpu(), device)
