"""Rejects cells whose network cannot be trained on their images, before training starts."""

from __future__ import annotations

import torch
from torch import nn

from lightning_modules.resolve import Resolved
from zoo.errors import UnfitError
from zoo.inputs import Run, name_of, try_inputs


def check_network(net: nn.Module, resolved: Resolved, batch_size: int) -> None:
    """Checks that a network accepts a cell's images, in eval and train mode, and returns logits for its classes.

    Args:
        net: The cell's network, with or without weights; not modified.
        resolved: The cell's network arguments and image size.
        batch_size: Training batch size; a batch of one matters, since BatchNorm cannot be trained on a single value.

    Raises:
        UnfitError: It does not; the text quotes the network's error and, if known, names images that would work.
    """
    n, classes = min(2, batch_size), resolved.network["num_classes"]

    def attempt(run: Run) -> None:
        for training in (False, True):
            with torch.no_grad():
                logits = run(training=training)
            if not isinstance(logits, torch.Tensor) or logits.shape != (n, classes):
                what = tuple(logits.shape[1:]) if isinstance(logits, torch.Tensor) else f"a {type(logits).__name__}"
                raise UnfitError(
                    f"{name_of(net)} returns {what} for an image, but training needs one logit for each of "
                    f"{classes} classes. Choose another model."
                )

    try_inputs(net, attempt, resolved.image_size, resolved.in_chans, batch=n)
