"""ImageNet's layout: a folder of class folders for each split."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import torch
from torch.utils.data import Dataset
from torchvision.datasets import ImageFolder

from lightning_modules.data.batches import ShardedBatches
from lightning_modules.data.decode import Box, central, decode, random_box
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


def image_files(root: str, split: str) -> list[tuple[str, int]]:
    """The images of one split: paths and labels.

    Raises:
        ConvzooError: The folder is missing, a class is empty, or the classes are not those of ``train``.
    """
    folder = Path(root).expanduser() / split
    if not folder.is_dir():
        raise ConvzooError(f"{folder} is missing. Type data.root=ROOT, where ROOT has {LAYOUT}.")
    try:
        images = ImageFolder(folder)
    except FileNotFoundError as error:
        raise ConvzooError(f"{folder}: {error}") from None
    if images.classes != classes(root):
        odd = sorted(set(images.classes) ^ set(classes(root)))
        raise ConvzooError(f"{folder} and {folder.parent / 'train'} have different classes: {', '.join(odd[:10])}.")
    return images.samples


class FolderBatches(ShardedBatches):
    """Batches as (epoch, indices): what a worker process needs to know."""

    def __iter__(self) -> Iterator[tuple[int, list[int]]]:
        epoch = self.epoch
        for indices in super().__iter__():
            yield epoch, indices.tolist()


class FolderImages(Dataset):
    """Image files → whole batches of uint8, cut out and reduced. For worker processes.

    In training, what an image gets is drawn from (seed, epoch, index): it does not depend on which process reads it,
    in which batch, or on where a stopped run goes on.

    Args:
        files: Paths and labels.
        image_size: Pixels a side.
        crop: Training: the cut-out's share of the image, from and to. Evaluation: the share of the central square's
            side.
        hflip: Flip half of the training images.
        seed: None for evaluation.
    """

    def __init__(
        self,
        files: list[tuple[str, int]],
        image_size: int,
        crop: tuple[float, float] | float,
        hflip: bool = False,
        seed: int | None = None,
    ) -> None:
        self.files, self.image_size, self.crop, self.hflip, self.seed = files, image_size, crop, hflip, seed

    def __len__(self) -> int:
        return len(self.files)

    def __getitems__(self, batch: tuple[int, list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        """(epoch, indices) → uint8 (N, 3, image_size, image_size), channels last in memory, and int64 (N,)."""
        epoch, indices = batch
        size = self.image_size
        pixels = torch.empty(len(indices), size, size, 3, dtype=torch.uint8)
        for into, index in zip(pixels, indices, strict=True):
            into.copy_(self._image(epoch, index))
        return pixels.permute(0, 3, 1, 2), torch.tensor([self.files[index][1] for index in indices])

    def _image(self, epoch: int, index: int) -> torch.Tensor:
        path, _ = self.files[index]
        if self.seed is None:
            return central(decode(path), self.image_size, self.crop)
        draws = random.Random(f"{self.seed},{epoch},{index}")

        def box(height: int, width: int) -> Box:
            return random_box(height, width, self.crop, draws)

        image = decode(path, box, self.image_size)
        return image.flip(1) if self.hflip and draws.random() < 0.5 else image


def as_they_are(batch: tuple[torch.Tensor, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """The dataset makes whole batches: a DataLoader has nothing to collate."""
    return batch
