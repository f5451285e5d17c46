"""Load batches from image folders with worker processes, replacing or skipping bad images."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import torch

from lightning_modules.data.bad_images import BadImages
from lightning_modules.data.crop import central, random_box
from lightning_modules.data.decode import decode
from lightning_modules.data.files import PATIENCE_S, BadImage, read
from lightning_modules.data.workers import WatchedImages, WatchedLoader, captured_stderr, plain_worker_errors
from zoo.errors import ConvzooError
from zoo.image_size import ImageSize, Size

OTHERS = 100
"""Maximum number of images that are tried in place of a bad one."""

BadList = list[tuple[int, str]]
"""Index and reason of each bad image."""


class View(NamedTuple):
    """What of an image the network sees; the arguments of `FolderImages` after its files."""

    image_size: Size
    crop: tuple[float, float] | float
    hflip: bool = False
    seed: int | None = None
    channels: int = 3


class FolderImages(WatchedImages):
    """Reads image files into whole batches of uint8, cropped and resized, in worker processes.

    In training, an image's crop and flip are drawn from (seed, epoch, index), so they do not depend on the process that
    reads it, the batch, or the point where a run resumes. The replacement of a bad image is drawn the same way, so a
    batch keeps its size. In evaluation a bad image is left out of the batch.

    Args:
        files: Paths and labels.
        image_size: Size of the images: H = W, or (H, W).
        crop: In training, minimum and maximum of the crop's share of the image's area. In evaluation, the side of the
            central part as a fraction of the largest part of that shape.
        hflip: Flip half of the training images horizontally.
        seed: Seed of the augmentation; None for evaluation.
        channels: Number of channels.
    """

    def __init__(
        self,
        files: list[tuple[str, int]],
        image_size: Size,
        crop: tuple[float, float] | float,
        hflip: bool = False,
        seed: int | None = None,
        channels: int = 3,
    ) -> None:
        super().__init__([path for path, _ in files])
        self.labels = [label for _, label in files]
        self.image_size, self.crop, self.hflip, self.seed = ImageSize.of(image_size), crop, hflip, seed
        self.channels = channels
        self._gave_up: set[int] = set()  # files that failed before: read them without retries

    def __getitems__(self, batch: tuple[int, list[int]]) -> tuple[torch.Tensor, torch.Tensor, BadList]:
        """Read one batch.

        Args:
            batch: Epoch and indices.

        Returns:
            Images, uint8 (N, channels, H, W), channels last in memory; labels, int64 (N,); bad images.
        """
        epoch, indices = batch
        size, bad, until = self.image_size, [], time.monotonic() + PATIENCE_S
        pixels = torch.empty(len(indices), *size, self.channels, dtype=torch.uint8)
        taken: list[int] = []
        with captured_stderr():
            for index in indices:
                for source in self._sources(epoch, index):
                    self.start_reading(source)
                    try:
                        pixels[len(taken)].copy_(self._image(epoch, index, source, until))
                        taken.append(source)
                        break
                    except BadImage as error:
                        self._gave_up.add(source)
                        bad.append((source, str(error)))
        self.start_reading(-1)
        labels = torch.tensor([self.labels[source] for source in taken], dtype=torch.int64)
        return pixels[: len(taken)].permute(0, 3, 1, 2), labels, bad

    def _sources(self, epoch: int, index: int) -> Iterator[int]:
        """Yield the image's index, then, in training, the indices of its replacements if it is bad."""
        yield index
        if self.seed is not None:
            draws = random.Random(f"{self.seed},{epoch},{index},instead")
            for _ in range(OTHERS):
                yield draws.randrange(len(self))

    def _image(self, epoch: int, index: int, source: int, until: float) -> torch.Tensor:
        if self.seed is None:
            return central(self._pixels(source, until), self.image_size, self.crop)
        draws = random.Random(f"{self.seed},{epoch},{index}")
        box = partial(random_box, scale=self.crop, draws=draws, size=self.image_size)
        image = self._pixels(source, until, box, self.image_size)
        return image.flip(1) if self.hflip and draws.random() < 0.5 else image

    def _pixels(self, source: int, until: float, *part: Any) -> torch.Tensor:
        """Return an image, or the ``part`` of it that `decode` takes, as uint8 (H, W, C)."""
        return decode(self._content(source, until), *part, channels=self.channels)

    def _content(self, source: int, until: float) -> bytes:
        return read(self.paths[source], 0 if source in self._gave_up else until)


class FolderLoader(WatchedLoader):
    """Loads batches of `FolderImages`, and records bad images in the training process.

    Args:
        images: Dataset that the workers read.
        bad: Receives the bad images.
        options: Options of `torch.utils.data.DataLoader`.
    """

    def __init__(self, images: FolderImages, bad: BadImages, **options: Any) -> None:
        super().__init__(images, **options)
        self.bad = bad

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        # Not a generator itself, so that the workers start now rather than at the first batch.
        return self._good(super().__iter__())

    def _good(self, batches: Iterator[Any]) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        any_good = False
        with plain_worker_errors():
            for images, labels, bad in batches:
                for index, reason in bad:
                    self.bad.add(self.dataset.paths[index], reason)
                # Skip a batch without good images: networks may not accept an empty batch.
                if len(labels):
                    any_good = True
                    yield images, labels
        if not any_good and self.bad.found:
            raise ConvzooError(
                f"none of the {len(self.dataset):,} images could be used; the first is {next(iter(self.bad.found))}."
            )
