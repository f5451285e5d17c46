"""Images that lie in memory as bytes, and the batches that are made of them: one gather each."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch

from lightning_modules.data.batches import ShardedBatches

GPU_SHARE = 0.25
"""How much of a GPU's free memory one split may take; the rest is the network's, and other jobs'."""


class Views(NamedTuple):
    """Where each image of an epoch is read: ``top`` and ``left`` (0 to 2 · padding), and ``flip``; (N,) each."""

    top: torch.Tensor
    left: torch.Tensor
    flip: torch.Tensor


class Store:
    """Images as one flat row of bytes, in which a random crop, and a flip, is a matter of where to read.

    Rows of pixels lie one after the other with ``padding`` black pixels between them: the right margin of a row is the
    left one of the next. A crop's row is then one piece of memory; rows above and below the image are read from one
    black row at the end. A mirrored copy of all images stands behind them, so that a flipped image is another address.

    Args:
        images: uint8 (N, C, H, W).
        padding: Black pixels around an image, for crops of the original size.
        mirrored: Keep the mirrored copy, for flips.
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
        """uint8 (N, C, H, W), a view."""
        shape = (self.n, self.channels, self.height, self.width)
        row = self._row * self.channels
        return self.bytes.as_strided(shape, (self.height * row, 1, row, self.channels), self.padding * self.channels)

    def to(self, device: torch.device) -> Store:
        """Moves the bytes to a device."""
        self.bytes = self.bytes.to(device)
        return self

    def draw(self, generator: torch.Generator) -> Views:
        """A view for each image, drawn like torchvision's ``RandomCrop(padding=…)`` and ``RandomHorizontalFlip``."""
        top, left = torch.randint(0, 2 * self.padding + 1, (2, self.n), generator=generator)
        flip = torch.rand(self.n, generator=generator) < 0.5 if self.mirrored else torch.zeros(self.n, dtype=torch.bool)
        return Views(*(t.to(self.bytes.device) for t in (top, left, flip)))

    def take(self, indices: torch.Tensor, views: Views | None = None, pinned: bool = False) -> torch.Tensor:
        """Images → uint8 (len(indices), C, H, W), channels last in memory.

        Args:
            indices: int64, on the store's device.
            views: Of all images; None: as they are.
            pinned: Into page-locked memory, from which a GPU takes it while the CPU goes on.
        """
        places, width, step = self._places(indices, views)
        windows = (self.bytes.numel() - width) // step + 1
        source = self.bytes.as_strided((windows, width), (step, 1))
        out = torch.empty(len(places), width, dtype=torch.uint8, pin_memory=True) if pinned else None
        taken = torch.index_select(source, 0, places, out=out)
        return taken.view(len(indices), self.height, self.width, self.channels).permute(0, 3, 1, 2)

    def _places(self, indices: torch.Tensor, views: Views | None) -> tuple[torch.Tensor, int, int]:
        """What to read: numbers of pieces of memory, the bytes of one, and the bytes from one to the next."""
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
    """Batches of a `Store`: one gather each, no worker processes.

    What an image gets in an epoch, its crop and flip, is drawn from (seed, epoch) for all images at once: it does not
    depend on the batch, on the number of ranks, or on where a stopped run goes on.

    Args:
        labels: int64 (N,), on the store's device.
        pinned: Hand the batches out in page-locked memory.

    Attributes:
        batch_sampler, sampler: Under these names Lightning looks for ``set_epoch``.
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
