"""Record which networks a training step called, and count the images they received."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._pytree import tree_map_only

from lightning_modules.callbacks.batch import Place, count_of, images_of, tensors_of


@dataclass(frozen=True)
class Call:
    """A network called directly from a step, not from within another network.

    Attributes:
        name: Name of the module; ``""`` for the LightningModule's own ``forward``.
        images: Number of images in the input; 0 if it holds none.
        length: Length of the input's first tensor.
        key: Identifies the images: equal if the same images are passed again; None if they are not the batch's own
            tensors.
        derived: Whether the input comes from another network.
        trains: Whether the module has a trainable weight.
        sample: Arguments for one image; None unless every module is watched.
    """

    name: str
    images: int
    length: int
    key: Any
    derived: bool
    trains: bool
    sample: tuple[tuple[Any, ...], dict[str, Any]] | None


def count_calls(calls: list[Call], sizes: set[int]) -> int:
    """Count the images that went through the network that trains on them.

    Args:
        calls: All calls of the step.
        sizes: Image counts of the batch's own parts that hold images.
    """
    seeing = [call for call in calls if call.images]
    forward = [call for call in seeing if not call.name]
    groups = (
        [call for call in forward if call.key],
        # Excludes a loss that is itself a network; for a GAN, counts the discriminator's real images.
        [call for call in seeing if call.key and call.trains],
        [call for call in seeing if call.key],
        forward,
        [call for call in seeing if call.trains and not call.derived],
        [call for call in seeing if not call.derived],
    )
    if group := next(filter(None, groups), None):
        # Images passed again, or passed to a second network, count once.
        return max(
            sum({call.key or i: call.images for i, call in enumerate(group) if call.name == name}.values())
            for name in {call.name for call in group}
        )
    # The step may have flattened the images.
    return next((call.length for call in calls if call.length in sizes), 0)


def find_part(parts: dict[Place, int], images: int) -> tuple[Place, int] | None:
    """Find the part of a batch that has this many images, or else one whose count divides it (two views of each).

    Returns:
        The part's path, and the number of network images per image of the part; None if no part fits.
    """
    fitting = sorted((images // size, i) for i, size in enumerate(parts.values()) if size and images % size == 0)
    return (list(parts)[fitting[0][1]], fitting[0][0]) if fitting else None


def one_image(arguments: tuple[Any, ...], named: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Cut arguments down to one image: take the first entry of everything that is as long as the batch."""
    given = {**dict(enumerate(arguments)), **named}
    images = next(iter(images_of(given).values()), None)
    many = count_of(images) if images else next((t.size(0) for t in tensors_of(given) if t.ndim), 0)

    def cut(x: Any) -> Any:
        if isinstance(x, torch.Tensor):
            return (x[:1] if x.ndim and x.size(0) == many else x).detach().clone()
        if type(x) in (list, tuple):
            return type(x)(cut(part) for part in (x[:1] if len(x) == many else x))
        if isinstance(x, dict):
            return {key: cut(part) for key, part in x.items()}
        return tree_map_only(torch.Tensor, cut, x)

    return tuple(cut(x) for x in arguments), {key: cut(x) for key, x in named.items()}


def storage_of(tensor: torch.Tensor) -> int:
    try:
        return tensor.untyped_storage().data_ptr()
    except (NotImplementedError, RuntimeError):  # sparse, or no plain tensor
        return id(tensor)
