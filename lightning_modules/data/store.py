"""Hold images in memory as bytes, and make each batch from them with a single gather."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch

from lightning_modules.data.batches import ShardedBatches

GPU_SHARE = 0.25
"""Maximum fraction of a GPU's free memory for one split; the network and other jobs need the rest."""


class Views(NamedTuple):
    """Crop and flip of each image of an epoch: ``top`` and ``left`` (0 to 2 · padding), and ``flip``; (N,) each."""

    top: torch.Tensor
    left: torch.Tensor
    flip: torch.Tensor


class Store:
    """Images as one flat array of bytes, in which a random crop or flip is only another address to read from.

    Rows of pixels follow each other with ``padding`` black pixels between them: the right margin of a row is the left
    margin of the next. Each row of a crop is therefore contiguous; rows above and below the image are read from one
    black row at the end. A mirrored copy of all images follows them, so a flipped image is also just another address.

    Args:
        images: uint8 (N, C, H, W).
        padding: Number of black pixels around an image, for crops of the original size.
        mirrored: Keep a mirrored copy, for flips.
    """

    def __init__(self, images: torch.Tensor, padding: int = 0, mirrored: bool = False) -> None:
        self.n, self.channels, self.height, self.width = images.shape
        self.padding, self.mirrored = padding, mirrored
        pixels = images.permute(0, 2, 3, 1)
        if padding or mirrored:
            copies = 1 + mirrored
            rows = torch.zeros(self._pixels(copies), self.channels, dtype=torch.uint8)
            body = rows[padding : padding + copies * self.n * self.height * self._row]
            body = body.view(copies, self.n, self.height, self._row, self.channels)[:, :, :, : self.width]
            for copy, content in zip(body, (pixels, pixels.flip(2)), strict=False):
                copy.copy_(content)
            self.bytes = rows.view(-1)
        else:
            self.bytes = pixels.contiguous().view(-1)

    @property
    def _row(self) -> int:
        return self.width + self.padding

    def _pixels(self, copies: int) -> int:
        return self.padding + (copies * self.n * self.height + 1) * self._row

    @property
    def images(self) -> torch.Tensor:
        """The images, uint8 (N, C, H, W), as a view of the bytes."""
        shape = (self.n, self.channels, self.height, self.width)
        row = self._row * self.channels
        return self.bytes.as_strided(shape, (self.height * row, 1, row, self.channels), self.padding * self.channels)

    def to(self, device: torch.device) -> Store:
        """Move the bytes to a device, in place, and return the store."""
        self.bytes = self.bytes.to(device)
        return self

    def draw(self, generator: torch.Generator) -> Views:
        """Draw a view of each image, like torchvision's ``RandomCrop(padding=…)`` and ``RandomHorizontalFlip``."""
        top, left = torch.randint(0, 2 * self.padding + 1, (2, self.n), generator=generator)
        flip = torch.rand(self.n, generator=generator) < 0.5 if self.mirrored else torch.zeros(self.n, dtype=torch.bool)
        return Views(*(t.to(self.bytes.device) for t in (top, left, flip)))

    def take(self, indices: torch.Tensor, views: Views | None = None, pinned: bool = False) -> torch.Tensor:
        """Gather a batch of images.

        Args:
            indices: int64, on the store's device.
            views: Views of all images; None: neither crop nor flip.
            pinned: Gather into page-locked memory, from which a GPU copies it while the CPU continues.

        Returns:
            uint8 (len(indices), C, H, W), channels last in memory.
        """
        places, width, step = self._places(indices, views)
        windows = (self.bytes.numel() - width) // step + 1
        source = self.bytes.as_strided((windows, width), (step, 1))
        out = torch.empty(len(places), width, dtype=torch.uint8, pin_memory=True) if pinned else None
        taken = torch.index_select(source, 0, places, out=out)
        return taken.view(len(indices), self.height, self.width, self.channels).permute(0, 3, 1, 2)

    def _places(self, indices: torch.Tensor, views: Views | None) -> tuple[torch.Tensor, int, int]:
        """Return what to gather: indices of windows into the bytes, a window's length, and the stride between windows.

        Length and stride are in bytes.
        """
        if views is not None:
            top, left, flip = (v.index_select(0, indices) for v in views)
            images = indices + flip * self.n
        else:
            top = left = torch.full_like(indices, self.padding)
            images = indices
        if not self.padding:
            image = self.height * self.width * self.channels
            return images, image, image
        y = (top - self.padding)[:, None] + torch.arange(self.height, device=top.device)
        inside = (y >= 0) & (y < self.height)
        black = (1 + self.mirrored) * self.n * self.height * self._row
        places = torch.where(inside, (images[:, None] * self.height + y) * self._row + left[:, None], black)
        return places.view(-1), self.width * self.channels, self.channels


class TensorLoader:
    """Loads batches from a `Store` with one gather each and no worker processes.

    The crops and flips of an epoch are drawn from (seed, epoch) for all images at once, so they do not depend on the
    batch, the number of ranks, or the point where a run resumes.

    Args:
        store: The images.
        labels: int64 (N,), on the store's device.
        batches: Indices of the batches.
        pinned: Return the batches in page-locked memory.

    Attributes:
        batch_sampler, sampler: Names under which Lightning looks for ``set_epoch``.
    """

    def __init__(self, store: Store, labels: torch.Tensor, batches: ShardedBatches, pinned: bool = False) -> None:
        self.store, self.labels, self.pinned = store, labels, pinned
        self.batch_sampler = self.sampler = batches

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        device = self.store.bytes.device
        views = None
        if self.sampler.shuffle and (self.store.padding or self.store.mirrored):
            views = self.store.draw(self.sampler.generator(stream=1))
        for indices in self.sampler.on(device):
            yield self.store.take(indices, views, self.pinned), self.labels.index_select(0, indices)
