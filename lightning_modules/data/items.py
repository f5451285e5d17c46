"""Batches of a user's dataset: in convzoo's order, and with random numbers that follow from seed, epoch and index."""

from __future__ import annotations

import random
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torchvision.transforms import v2

from lightning_modules.config.schema import DataOptions
from lightning_modules.data.levels import OVERSHOOT
from lightning_modules.data.sources import Items
from lightning_modules.data.workers import WatchedImages
from zoo.errors import ConvzooError


class Names:
    """The name of each image of a split, made when it is asked for: ``image 17 of train``."""

    def __init__(self, split: str, count: int) -> None:
        self.split, self.count = split, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> str:
        return f"image {index} of {self.split}"


class ItemBatches(WatchedImages):
    """Makes whole batches of a dataset's items, in worker processes.

    Whatever the dataset draws from torch, numpy or `random` for an item follows from (seed, epoch, index) in training,
    and from the index alone in evaluation: not from the process, the batch, or the point where a run resumes.

    Args:
        items: The dataset.
        split: ``train``, ``val`` or ``test``.
        options: The data group of the configuration, resolved.
        seed: Seed of the random numbers.
    """

    def __init__(self, items: Items, split: str, options: DataOptions, seed: int) -> None:
        super().__init__(Names(split, len(items)))
        self.items, self.options, self.seed, self.training = items, options, seed, split == "train"
        augment = options.augment
        self.padding, self.hflip = (augment.crop_padding or 0, bool(augment.hflip)) if self.training else (0, False)
        self.finished = set(options.mean) == {0} and set(options.std) == {1}

    def __getitems__(self, batch: tuple[int, list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        """Make one batch of (epoch, indices): images, uint8 or float (N, C, H, W), and labels."""
        epoch, indices = batch
        pairs = []
        with random_numbers_kept():
            for index in indices:
                self.start_reading(index)
                _seed(f"{self.seed},{epoch},{index}" if self.training else f"{index}")
                pairs.append(self._pair(index))
            self.start_reading(-1)
            images, labels = self.items.collate(pairs)
        return images, labels

    def _pair(self, index: int) -> tuple[torch.Tensor, int]:
        try:
            image, label = self.items.dataset[index]
        except (TypeError, ValueError) as error:
            if not str(error).startswith(("cannot unpack", "not enough values", "too many values")):
                raise
            raise ConvzooError(f"{self.paths[index]} is not a pair (image, label).") from None
        return self._view(self._checked(image, index)), self._label(label, index)

    def _checked(self, image: Any, index: int) -> torch.Tensor:
        name, channels = self.paths[index], self.options.in_chans
        if isinstance(image, Image.Image):
            image = v2.functional.pil_to_tensor(image)
        if not isinstance(image, torch.Tensor) or image.ndim != 3:
            shape = f" {tuple(image.shape)}" if isinstance(image, torch.Tensor) else ""
            raise ConvzooError(f"{name} is a {type(image).__name__}{shape}. Allowed: a tensor (C, H, W), or of Pillow.")
        if image.shape[0] != channels:
            raise ConvzooError(f"{name} has {image.shape[0]} channels: type data.in_chans={image.shape[0]}.")
        if image.dtype == torch.uint8:
            return image
        if not image.is_floating_point():
            raise ConvzooError(f"{name} has values of {image.dtype}. Allowed: uint8, or floating point from 0 to 1.")
        low, high = float(image.min()), float(image.max())
        if not self.finished and (low < -OVERSHOOT or high > 1 + OVERSHOOT):
            zeros, ones = (f"[{','.join([number] * channels)}]" for number in "01")
            raise ConvzooError(
                f"{name} has values from {low:.3g} to {high:.3g}. Allowed: 0 to 1. If your data set normalises its "
                f"images itself, type data.mean={zeros} data.std={ones}."
            )
        return image

    def _view(self, image: torch.Tensor) -> torch.Tensor:
        """Crop, flip and resize: a batch needs images of one size."""
        if self.padding:
            height, width = image.shape[1:]
            top, left = (random.randint(0, 2 * self.padding) for _ in range(2))
            image = F.pad(image, [self.padding] * 4)[:, top : top + height, left : left + width]
        if self.hflip and random.random() < 0.5:
            image = image.flip(2)
        size = self.options.image_size
        return image if tuple(image.shape[1:]) == size else v2.functional.resize(image, list(size))

    def _label(self, label: Any, index: int) -> int:
        label = label.item() if isinstance(label, (torch.Tensor, np.generic)) else label
        if type(label) is not int or not 0 <= label < self.options.num_classes:
            raise ConvzooError(
                f"{self.paths[index]} has the label {label!r}. Allowed: 0 to {self.options.num_classes - 1} "
                f"(data.num_classes={self.options.num_classes})."
            )
        return label


def _seed(text: str) -> None:
    seed = zlib.crc32(text.encode())
    random.seed(seed)
    np.random.seed(seed)
    # Not torch.manual_seed: it reseeds the GPUs too, and without one it keeps a list of what it would do.
    torch.default_generator.manual_seed(seed)


@contextmanager
def random_numbers_kept() -> Iterator[None]:
    """Give the process its random numbers back afterwards: without workers, it is the one that trains."""
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
        torch.set_rng_state(before[2])
