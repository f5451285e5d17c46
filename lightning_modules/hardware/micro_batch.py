"""Training on a batch in parts, so that one which does not fit into memory gives the same step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from lightning_modules.hardware.out_of_memory import first_line, is_out_of_memory
from lightning_modules.rng import set_torch_states, torch_states

AUTO = "auto"

LEAST = 2
"""Images that ``auto`` goes down to: BatchNorm has no statistics of one."""


class MicroBatch:
    """How many images a device takes at a time.

    The loss of a batch is the mean over all its images and so is its gradient, whatever the parts: optimizer, schedule
    and augmentation see no difference. BatchNorm does: it normalises over a part, and its running statistics are
    brought up to date once a part.

    Attributes:
        size: Images of one pass of training, at most (one more, where one would be left over); None: a whole batch.
        evaluated: The same for evaluation, whose results do not depend on it.

    Args:
        asked: ``hardware.micro_batch``: a number; ``auto``: halved whenever memory runs out, and the step made again
            from its beginning; None: a whole batch.
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
        """The mean loss of a batch, ready for ``backward``.

        Args:
            net: What is trained.
            images: (N, …).
            labels: (N, …).
            loss: Images and labels of a part → its mean loss, a scalar.
        """
        if self.asked is None:
            return loss(images, labels)
        weights = [p for p in net.parameters() if p.requires_grad]
        before = self._remember(net, images.device)
        while True:
            try:
                total, gradients = _in_parts(images, labels, loss, weights, self.size or len(images))
                return _Known.apply(total, gradients, *weights)
            except Exception as error:
                self.size = self._fewer(self.size, len(images), error)
            # Outside of the handler: the error's traceback holds on to what filled the memory.
            self._again(net, before, images.device)

    def logits(self, net: Callable[[torch.Tensor], torch.Tensor], images: torch.Tensor) -> torch.Tensor:
        """What the network says of images (N, …), for evaluation."""
        while True:
            try:
                if self.evaluated is None or self.evaluated >= len(images):
                    return net(images)
                # Copies: CUDA graphs write their output again.
                return torch.cat([net(part).clone() for part in images.split(self.evaluated)])
            except Exception as error:
                self.evaluated = self._fewer(self.evaluated, len(images), error)
            _free(images.device)

    def state_dict(self) -> dict[str, int | None]:
        return {"size": self.size, "evaluated": self.evaluated}

    def load_state_dict(self, state: dict[str, int | None]) -> None:
        """A run that goes on takes as many as it did; never more than it has learned since."""
        if self.auto:
            for name, saved in state.items():
                known = [size for size in (saved, getattr(self, name)) if size is not None]
                setattr(self, name, min(known, default=None))

    def _fewer(self, size: int | None, images: int, error: Exception) -> int:
        """Half as many.

        Raises:
            Exception: The error itself, where it has another reason or there is nothing to halve.
        """
        now = min(size or images, images)
        if not self.auto or not is_out_of_memory(error) or now <= LEAST:
            raise error
        half = max(LEAST, -(-now // 2))
        print(
            f"out of memory with {now} images at a time ({first_line(error)}): going on with {half} "
            "(hardware.micro_batch=auto). Batch size and schedule stay as they are; BatchNorm sees the smaller parts.",
            flush=True,
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
        """As if the step had not begun."""
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
    """Mean loss and gradients of a batch, one part after the other."""
    # Of nearly the same size, and none of one image, which would be no good to BatchNorm: of 5 images 3 and 2.
    many = min(-(-len(images) // size), max(1, len(images) // LEAST))
    total = images.new_zeros((), dtype=torch.float32)
    sums: list[torch.Tensor | None] = [None] * len(weights)
    for some, theirs in zip(images.tensor_split(many), labels.tensor_split(many), strict=True):
        part = loss(some, theirs) * (len(some) / len(images))
        # As usual, the backward pass is not under autocast.
        with torch.autocast(images.device.type, enabled=False):
            gradients = torch.autograd.grad(part, weights, allow_unused=True)
        total += part.detach()
        pairs = list(zip(sums, gradients, strict=True))
        if used := [(s, g) for s, g in pairs if s is not None and g is not None]:
            torch._foreach_add_([s for s, _ in used], [g for _, g in used])
        # Copies: autograd may give two weights one tensor, and CUDA graphs write theirs again.
        sums = list(gradients) if many == 1 else [g.clone() if s is None and g is not None else s for s, g in pairs]
        del gradients, pairs, used
    return total, sums


class _Known(torch.autograd.Function):
    """A loss whose gradients are known already."""

    @staticmethod
    def forward(ctx, loss, gradients, *weights):
        ctx.gradients = gradients
        return loss.clone()

    @staticmethod
    def backward(ctx, gradient):
        gradients, ctx.gradients = ctx.gradients, None
        # Not in place: autograd may have given two weights one tensor.
        used = iter(torch._foreach_mul([g for g in gradients if g is not None], gradient))
        return None, None, *(None if g is None else next(used) for g in gradients)


def _free(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.empty_cache()
