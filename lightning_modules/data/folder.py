"""ImageNet's layout: a folder of class folders for each split."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from zoo.errors import ConvzooError

LAYOUT = "ROOT/train/CLASS/image.jpg and ROOT/val/CLASS/image.jpg"


def classes(root: str) -> list[str]:
    """The class folders of ``root/train``.

    Raises:
        ConvzooError: ``root`` does not have the layout.
    """
    train = Path(root).expanduser() / "train"
    names = sorted(p.name for p in train.iterdir() if p.is_dir()) if train.is_dir() else []
    if not names:
        raise ConvzooError(f"{train} has no class folders. Type data.root=ROOT, where ROOT has {LAYOUT}.")
    return names


def image_folder(root: str, split: str, image_size: int, augment: dict[str, Any], training: bool) -> ImageFolder:
    """One split as (uint8 (3, image_size, image_size), label) pairs.

    Raises:
        ConvzooError: The folder is missing, a class is empty, or the classes are not those of ``train``.
    """
    folder = Path(root).expanduser() / split
    if not folder.is_dir():
        raise ConvzooError(f"{folder} is missing. Type data.root=ROOT, where ROOT has {LAYOUT}.")
    try:
        images = ImageFolder(folder, _transform(image_size, augment, training))
    except FileNotFoundError as error:
        raise ConvzooError(f"{folder}: {error}") from None
    if images.classes != classes(root):
        odd = sorted(set(images.classes) ^ set(classes(root)))
        raise ConvzooError(f"{folder} and {folder.parent / 'train'} have different classes: {', '.join(odd[:10])}.")
    return images


def _transform(image_size: int, augment: dict[str, Any], training: bool) -> v2.Compose:
    if training:
        steps = [v2.RandomResizedCrop(image_size, scale=augment["random_resized_crop"], antialias=True)]
        steps += [v2.RandomHorizontalFlip()] if augment["hflip"] else []
    else:
        steps = [v2.Resize(round(image_size / augment["crop_ratio"]), antialias=True), v2.CenterCrop(image_size)]
    return v2.Compose([*steps, v2.PILToTensor(), v2.ToDtype(torch.uint8)])
