"""Saves and restores BatchNorm's running statistics, which a forward pass updates even if its step is then skipped."""

from __future__ import annotations

import torch
from torch import nn

ALIGNED = 64
"""Alignment in bytes: a cache line, which suits vector instructions best."""

NAMES = ("running_mean", "running_var", "num_batches_tracked")


class RunningStats:
    """Undoes the changes of forward passes to a module's running statistics.

    The buffers are moved into one contiguous tensor per dtype and device, so that `keep` and `undo` take one or two
    operations, whatever the number of layers. The buffers stay the same tensor objects, so references remain valid.

    Args:
        module: Any module; one without running statistics has no overhead.
    """

    def __init__(self, module: nn.Module) -> None:
        groups: dict[tuple[torch.dtype, torch.device], list[torch.Tensor]] = {}
        buffers = {id(b): b for name, b in module.named_buffers() if name.rpartition(".")[2] in NAMES}
        for buffer in buffers.values():
            groups.setdefault((buffer.dtype, buffer.device), []).append(buffer)
        self._live = [_packed(buffers) for buffers in groups.values()]
        self._kept = [live.clone() for live in self._live]

    def keep(self) -> None:
        """Saves the current statistics."""
        for live, kept in zip(self._live, self._kept, strict=True):
            kept.copy_(live)

    def undo(self) -> None:
        """Restores the statistics that were last saved."""
        for live, kept in zip(self._live, self._kept, strict=True):
            live.copy_(kept)

    def keep_unless(self, bad: torch.Tensor) -> None:
        """Calls `undo` if ``bad`` (a scalar on their device) is not 0, else `keep`, without synchronizing the GPU."""
        if self._live:
            bad = bad != 0
        for live, kept in zip(self._live, self._kept, strict=True):
            torch.where(bad, kept, live, out=kept)
            live.copy_(kept)


def _packed(buffers: list[torch.Tensor]) -> torch.Tensor:
    # Align each buffer, as a separate allocation would.
    rooms = [
        -(-buffer.numel() * buffer.element_size() // ALIGNED) * ALIGNED // buffer.element_size() for buffer in buffers
    ]
    flat = buffers[0].new_zeros(sum(rooms))
    for buffer, room in zip(buffers, flat.split(rooms), strict=True):
        buffer.data = room[: buffer.numel()].copy_(buffer.detach().reshape(-1)).view(buffer.shape)
    return flat
