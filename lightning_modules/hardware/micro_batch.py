"""Micro-batches: trains on a batch in parts, so that a batch too large for memory gives the same step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from lightning_modules.hardware.out_of_memory import MEMORY_ERRORS, first_line, is_out_of_memory
from lightning_modules.rng import set_torch_states, torch_states
from zoo.log import log

AUTO = "auto"

LEAST = 2
"""Smallest micro-batch of ``auto``: BatchNorm has no statistics of a single image."""


class MicroBatch:
    """Splits batches into micro-batches that fit into a device's memory.

    Loss and gradient of a batch are means over all its images, however it is split, so optimizer, schedule and
    augmentation see no difference. BatchNorm does: it normalizes over a part, and updates its running statistics once
    per part.

    Attributes:
        size: Maximum number of images per training pass (one more if a single image would be left over); None: the
            whole batch.
        evaluated: The same for evaluation, whose results do not depend on it.

    Args:
        asked: ``hardware.micro_batch``: a number; ``auto``: halve the size whenever memory runs out, and repeat the
            step from its beginning; None: the whole batch.
    """

    def __init__(self, asked: int | str | None = None) -> None:
        self.asked, self.auto = asked, asked == AUTO
        self.size = self.evaluated = asked if isinstance(asked, int) else None
        self._buffers: list[torch.Tensor] = []

    def loss(
        self,
        net: nn.Module,
        images: torch.Tensor,
        labels: torch.Tensor,
        loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    ) -> torch.Tensor:
        """Returns the mean loss of a batch, a scalar ready for ``backward``.

        Args:
            net: The network being trained.
            images: (N, …).
            labels: (N, …).
            loss: Maps images and labels of a part to its mean loss, a scalar.
        """
        if self.asked is None:
            return loss(images, labels)
        weights = [p for p in net.parameters() if p.requires_grad]
        before = self._remember(net, images.device)
        while True:
            try:
                total, gradients = _in_parts(images, labels, loss, weights, self.size or len(images))
                return _Known.apply(total, gradients, *weights)
            except MEMORY_ERRORS as error:
                self.size = self._fewer(self.size, len(images), error)
            # Outside the handler: the error's traceback keeps the tensors alive that filled the memory.
            self._again(net, before, images.device)

    def logits(self, net: Callable[[torch.Tensor], torch.Tensor], images: torch.Tensor) -> torch.Tensor:
        """Returns the network's output for images (N, …), for evaluation."""
        while True:
            try:
                if self.evaluated is None or self.evaluated >= len(images):
                    return net(images)
                # Copies, since CUDA graphs overwrite their output.
                return torch.cat([net(part).clone() for part in images.split(self.evaluated)])
            except MEMORY_ERRORS as error:
                self.evaluated = self._fewer(self.evaluated, len(images), error)
            _free(images.device)

    def state_dict(self) -> dict[str, int | None]:
        return {"size": self.size, "evaluated": self.evaluated}

    def load_state_dict(self, state: dict[str, int | None]) -> None:
        """Restores the sizes of a resumed run with ``auto``; keeps a smaller size found since."""
        if self.auto:
            for name, saved in state.items():
                known = [size for size in (saved, getattr(self, name)) if size is not None]
                setattr(self, name, min(known, default=None))

    def _fewer(self, size: int | None, images: int, error: Exception) -> int:
        """Returns half the number of images, after an out-of-memory error.

        Raises:
            Exception: The error itself, if it has another cause or the size cannot be halved.
        """
        now = min(size or images, images)
        if not self.auto or not is_out_of_memory(error) or now <= LEAST:
            raise error
        half = max(LEAST, -(-now // 2))
        log.warning(
            f"out of memory with {now} images at a time ({first_line(error)}): continuing with {half} "
            "(hardware.micro_batch=auto). Batch size and schedule do not change; BatchNorm sees the smaller parts.",
            extra={"every_rank": True},
        )
        return half

    def _remember(self, net: nn.Module, device: torch.device) -> dict[str, torch.Tensor] | None:
        if not self.auto:
            return None
        live = list(net.buffers())
        if not self._buffers:
            self._buffers = [buffer.clone() for buffer in live]
        elif live:
            torch._foreach_copy_(self._buffers, live)
        return torch_states(device)

    def _again(self, net: nn.Module, before: Any, device: torch.device) -> None:
        """Restores buffers and random states from before the step."""
        _free(device)
        for buffer, kept in zip(net.buffers(), self._buffers, strict=True):
            buffer.copy_(kept)
        set_torch_states(before, device)


def _in_parts(
    images: torch.Tensor,
    labels: torch.Tensor,
    loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    weights: list[torch.Tensor],
    size: int,
) -> tuple[torch.Tensor, list[torch.Tensor | None]]:
    """Computes mean loss and gradients of a batch, one part after the other."""
    # Parts of nearly equal size, none of a single image, which BatchNorm cannot use: 5 images become 3 and 2.
    many = min(-(-len(images) // size), max(1, len(images) // LEAST))
    total = images.new_zeros((), dtype=torch.float32)
    sums: list[torch.Tensor | None] = [None] * len(weights)
    for some, theirs in zip(images.tensor_split(many), labels.tensor_split(many), strict=True):
        part = loss(some, theirs) * (len(some) / len(images))
        # The caller is under autocast, which a backward pass should not be.
        with torch.autocast(images.device.type, enabled=False):
            gradients = torch.autograd.grad(part, weights, allow_unused=True)
        total += part.detach()
        pairs = list(zip(sums, gradients, strict=True))
        if used := [(s, g) for s, g in pairs if s is not None and g is not None]:
            torch._foreach_add_([s for s, _ in used], [g for _, g in used])
        # Copies: autograd may return one tensor for two weights, and CUDA graphs overwrite theirs.
        sums = list(gradients) if many == 1 else [g.clone() if s is None and g is not None else s for s, g in pairs]
        del gradients, pairs, used
    return total, sums


class _Known(torch.autograd.Function):
    """Attaches precomputed gradients to a loss, so that ``backward`` delivers them."""

    @staticmethod
    def forward(ctx: Any, loss: torch.Tensor, gradients: Any, *weights: torch.Tensor) -> torch.Tensor:
        ctx.gradients = gradients
        return loss.clone()

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        gradients, ctx.gradients = ctx.gradients, None
        # Not in place: autograd may have returned one tensor for two weights.
        used = iter(torch._foreach_mul([g for g in gradients if g is not None], gradient))
        return None, None, *(None if g is None else next(used) for g in gradients)


def _free(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.empty_cache()
