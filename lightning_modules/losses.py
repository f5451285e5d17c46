"""Training losses by name. A user's own is registered in the same way as cross-entropy here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
import torch.nn.functional as F

from lightning_modules.config.objects import takes
from zoo.errors import ConvzooError
from zoo.registry import Registry

LOSSES = Registry("loss")

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""From logits (N, classes) and labels, int64 (N,) or with mixup float (N, classes), to a mean loss, a scalar."""

Made = TypeVar("Made", bound=Callable[..., Any])

SMOOTHING = "label_smoothing"


def loss(name: str) -> Callable[[Made], Made]:
    """Registers a training loss as ``loss=NAME``; its keyword arguments are ``loss.KEY``.

    It decorates a function from logits (N, classes), labels and options to the mean loss of a batch, or a class whose
    instances are called with logits and labels, such as an ``nn.Module``. Labels are int64 (N,), or float (N, classes)
    with mixup or cutmix. An argument ``label_smoothing`` receives ``optim.label_smoothing``.

    Raises:
        ConvzooError: The name is invalid or taken.
    """
    return LOSSES.register(name, leave_out=(SMOOTHING,))


@loss("cross_entropy")
def cross_entropy(logits: torch.Tensor, labels: torch.Tensor, label_smoothing: float = 0.0) -> torch.Tensor:
    """Cross-entropy, smoothed by ``optim.label_smoothing`` (Szegedy et al. 2016, arXiv:1512.00567)."""
    return F.cross_entropy(logits, labels, label_smoothing=label_smoothing)


def check_loss(name: str, options: dict[str, Any], label_smoothing: float) -> None:
    """Checks a loss and its options.

    Raises:
        ConvzooError: The loss or an option does not exist, a value is not allowed, or it has no label smoothing.
    """
    LOSSES.check(LOSSES.choose(name), options)
    if label_smoothing and SMOOTHING not in takes(LOSSES[name].make)[0]:
        raise ConvzooError(f"loss={name} has no label smoothing. Type optim.label_smoothing=0.")


def make_loss(name: str, options: dict[str, Any], label_smoothing: float) -> Loss:
    """Returns the loss; an ``nn.Module`` if a class of that kind is registered."""
    choice = LOSSES[name]
    smoothing = {SMOOTHING: label_smoothing} if SMOOTHING in takes(choice.make)[0] else {}
    return choice.bound(**options, **smoothing)
