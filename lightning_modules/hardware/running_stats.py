"""BatchNorm's running statistics, which a forward pass changes before anybody knows whether its step is a good one."""

from __future__ import annotations

import torch
from torch import nn

ALIGNED = 64
"""Bytes: a cache line, and what vector instructions like best."""

NAMES = ("running_mean", "running_var", "num_batches_tracked")


class RunningStats:
    """Can take back what forward passes did to a module's running statistics.

    They are moved into one piece of memory for each data type, so that keeping and taking back cost an operation or
    two however many layers there are; the buffers stay the same tensors for everybody who holds them.

    Args:
        module: Any; one without running statistics costs nothing.
    """

    def __init__(self, module: nn.Module) -> None:
        groups: dict[tuple[torch.dtype, torch.device], list[torch.Tensor]] = {}
        buffers = {id(b): b for name, b in module.named_buffers() if name.rpartition(".")[2] in NAMES}
        for buffer in buffers.values():
            groups.setdefault((buffer.dtype, buffer.device), []).append(buffer)
        self._live = [_packed(buffers) for buffers in groups.values()]
        self._kept = [live.clone() for live in self._live]

    def keep(self) -> None:
        """They are good as they are now."""
        for live, kept in zip(self._live, self._kept, strict=True):
            kept.copy_(live)

    def undo(self) -> None:
        """Back to what was kept."""
        for live, kept in zip(self._live, self._kept, strict=True):
            live.copy_(kept)

    def keep_unless(self, bad: torch.Tensor) -> None:
        """`undo` where ``bad`` (a scalar on their device, not 0) says so, else `keep`; no GPU has to wait for it."""
        if self._live:
            bad = bad != 0
        for live, kept in zip(self._live, self._kept, strict=True):
            torch.where(bad, kept, live, out=kept)
            live.copy_(kept)


def _packed(buffers: list[torch.Tensor]) -> torch.Tensor:
    # Each at an address as round as its own memory had.
    rooms = [
        -(-buffer.numel() * buffer.element_size() // ALIGNED) * ALIGNED // buffer.element_size() for buffer in buffers
    ]
    flat = buffers[0].new_zeros(sum(rooms))
    for buffer, room in zip(buffers, flat.split(rooms), strict=True):
        buffer.data = room[: buffer.numel()].copy_(buffer.detach().reshape(-1)).view(buffer.shape)
    return flat
