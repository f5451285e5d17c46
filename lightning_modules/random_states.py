"""The random numbers that a step draws on its device, kept so that it can be made again."""

from __future__ import annotations

import torch


def random_states(device: torch.device) -> dict[str, torch.Tensor]:
    """Of torch's generators; a GPU does not have to wait for it."""
    states = {"cpu": torch.get_rng_state()}
    return states | {"cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else states


def set_random_states(states: dict[str, torch.Tensor], device: torch.device) -> None:
    """The opposite of `random_states`."""
    torch.set_rng_state(states["cpu"])
    if device.type == "cuda":
        torch.cuda.set_rng_state(states["cuda"], device)
