"""A split of a data set that timm opened: listed images, read in any order, or a stream."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torchvision.transforms import v2

from lightning_modules.data.batches import EpochBatches
from lightning_modules.data.files import BadImage
from lightning_modules.data.folder import FolderImages, View
from lightning_modules.data.items import Names
from lightning_modules.data.stream import Stream, StreamBatches, StreamImages
from zoo.errors import ConvzooError
from zoo.log import log


@dataclass
class Listed:
    """A split whose images can be read in any order.

    Attributes:
        labels: The images' labels.
        names: The classes' names; empty where the data set has none.
        make: From `View` to the images.
    """

    labels: Sequence[int]
    names: tuple[str, ...]
    make: Callable[[View], FolderImages]

    batches = EpochBatches

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def classes(self) -> int:
        return len(self.names) or max(self.labels) + 1

    @property
    def fingerprint(self) -> str:
        """Checksum of the labels, in their order."""
        return f"{len(self)} images, {zlib.crc32(np.asarray(self.labels, np.int64).tobytes()):08x}"

    def images(self, view: View, classes: int, buffer: int) -> FolderImages:
        """Return the images for a loader.

        Raises:
            ConvzooError: A label is not one of the classes.
        """
        low, high = min(self.labels), max(self.labels)
        if low < 0 or high >= classes:
            raise ConvzooError(f"data=timm has labels from {low} to {high}. Allowed: 0 to {classes - 1}.")
        return self.make(view)


@dataclass
class Streamed:
    """A split that is read as a stream.

    Attributes:
        stream: The stream.
        known: Number of its images; 0: unknown.
        names: The classes' names; empty where the data set has none.
    """

    stream: Stream
    known: int
    names: tuple[str, ...]

    batches = StreamBatches

    def __len__(self) -> int:
        return self.known or self._counted[0]

    @property
    def classes(self) -> int:
        return len(self.names) or self._counted[1]

    @cached_property
    def _counted(self) -> tuple[int, int]:
        """Number of images and classes, found by reading all labels."""
        log.info(f"counting the images of {self.stream.source}")
        count, most = 0, -1
        for label in self.stream.labels():
            count, most = count + 1, max(most, label)
        return count, most + 1

    @property
    def fingerprint(self) -> str:
        """Checksum of the names of the shards."""
        names = "\0".join(Path(self.stream.name(shard)).name for shard in range(self.stream.shards))
        return f"{len(self)} images in {self.stream.shards} shards, {zlib.crc32(names.encode()):08x}"

    def images(self, view: View, classes: int, buffer: int) -> FolderImages:
        """Return the images for a loader."""
        return StreamImages(self.stream, len(self), classes, view, buffer)


class Contents(FolderImages):
    """Images whose files a reader of timm opens by index."""

    def __init__(self, reader: Any, labels: Sequence[int], split: str, view: View) -> None:
        super().__init__([], *view)
        self.paths, self.labels, self.reader = Names(split, len(labels)), labels, reader

    def _content(self, source: int, until: float) -> bytes:
        try:
            with self.reader[source][0] as file:
                return file.read()
        except OSError as error:
            raise BadImage("cannot be read", error.strerror or "") from None


class Pictures(FolderImages):
    """Images that a data set of torchvision makes with Pillow."""

    def __init__(self, dataset: Any, labels: Sequence[int], split: str, view: View) -> None:
        super().__init__([], *view)
        self.paths, self.labels, self.dataset = Names(split, len(labels)), labels, dataset

    def _pixels(self, source: int, until: float, *part: Any) -> torch.Tensor:
        try:
            image = self.dataset[source][0].convert("L" if self.channels == 1 else "RGB")
        except OSError as error:
            raise BadImage("damaged", str(error)) from None
        pixels = torch.from_numpy(np.array(image)).view(image.height, image.width, self.channels)
        if not part:
            return pixels
        box, size = part
        return v2.functional.resized_crop(pixels.permute(2, 0, 1), *box(*pixels.shape[:2]), list(size)).permute(1, 2, 0)
