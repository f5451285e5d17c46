"""Finds the convolutions of a network's stem, and makes the stem fit small images."""

from __future__ import annotations

import torch
from torch import nn

from zoo.convs import ConvSpec
from zoo.errors import ConvzooError, UnfitError, choose
from zoo.image_size import ImageSize, Size
from zoo.inputs import Run, try_inputs
from zoo.meta import watching

SMALL_IMAGE = 64
"""Images whose shorter side has up to this many pixels get the small stem under ``stem="auto"``."""

DEEP_STEMS = ("conv1", "stem", "patch_embed")
"""Names of modules that are a stem of several convolutions if the network's first convolution is inside."""

STEMS = ("auto", "small", "imagenet")


def stem_for(choice: str, image_size: Size) -> str:
    """Returns the stem, ``small`` or ``imagenet``, that a choice means for this image size (H = W, or (H, W)).

    Raises:
        ConvzooError: The choice is not one of `STEMS`.
    """
    if choose("stem", choice, STEMS) != "auto":
        return choice
    return "small" if ImageSize.of(image_size).shorter <= SMALL_IMAGE else "imagenet"


def first_conv(net: nn.Module) -> str:
    """Returns the name of the convolution that the image reaches first.

    It comes from timm's record, else from a run on the meta device. If the network runs with none of the guessed
    images, it is the convolution that is registered first; without any convolution, ``""``.
    """
    recorded = (getattr(net, "pretrained_cfg", None) or {}).get("first_conv")
    name = next(iter(recorded), None) if isinstance(recorded, (tuple, list)) else recorded
    convs = [n for n, m in net.named_modules() if isinstance(m, nn.Conv2d)]
    if name in convs or len(convs) < 2:
        return name if name in convs else next(iter(convs), "")
    try:
        return try_inputs(net, _reached_first)
    except ConvzooError:
        return convs[0]


def _reached_first(run: Run) -> str:
    names = {module: name for name, module in run.net.named_modules() if isinstance(module, nn.Conv2d)}

    def enter(module: nn.Module, args: object) -> None:
        if module in names:
            raise _ReachedError(names[module])

    try:
        with watching(enter, lambda *_: None), torch.no_grad():
            run()
    except _ReachedError as reached:
        return str(reached)
    raise RuntimeError("it runs without a convolution")


class _ReachedError(Exception):
    """Ends a run once the first convolution is known; its message is the convolution's name."""


def stem_convs(net: nn.Module) -> set[str]:
    """Returns the names of the stem's convolutions: the first, and the others of a deep stem (ResNet-D, ``stem.*``)."""
    first = first_conv(net)
    path = first.split(".")[:-1]
    deep = next((".".join(path[: i + 1]) + "." for i, part in enumerate(path) if part in DEEP_STEMS), None)
    return {
        name
        for name, module in net.named_modules()
        if isinstance(module, nn.Conv2d) and (name == first or (deep and name.startswith(deep)))
    }


def shrink_stem(net: nn.Module) -> None:
    """Turns an ImageNet stem into a small one, in place: stride 1, kernel at most 3×3, no max-pool.

    This form is usual for CIFAR (a 3×3 convolution of stride 1 in ResNet-18: 11,173,962 parameters with 10 classes).
    A 3×3 stem keeps its weights; a larger kernel is replaced by a 3×3 one with new weights.

    Raises:
        UnfitError: The network has no such stem (patchify stems, transformers).
    """
    name = first_conv(net)
    conv = net.get_submodule(name) if name else None
    if conv is None or conv.kernel_size == conv.stride:
        raise UnfitError(
            f"{type(net).__name__} has no stem that could be made small (its first layer cuts the image into patches). "
            "Type model.stem=imagenet, or use a larger image."
        )
    if max(conv.kernel_size) > 3:
        spec = ConvSpec.of(conv).but(kernel_size=(3, 3), stride=(1, 1), padding=(1, 1))
        net.set_submodule(name, spec.conv())
    else:
        conv.stride = (1, 1)
    if isinstance(getattr(net, "maxpool", None), nn.Module):
        net.maxpool = nn.Identity()
