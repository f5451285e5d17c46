"""Data sets that a function reads: arrays of bytes in memory, or datasets whose images are made as they are needed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from lightning.pytorch import LightningDataModule

from lightning_modules.config.schema import DataOptions
from lightning_modules.data.base import Data
from lightning_modules.data.store import GPU_SHARE, Store, TensorLoader
from lightning_modules.data.subset import chosen
from zoo.errors import ConvzooError


class Images(NamedTuple):
    """Images, uint8 (N, C, H, W), and labels, int64 (N,)."""

    images: torch.Tensor
    labels: torch.Tensor

    def at(self, indices: Sequence[int]) -> Images:
        """Return the images at some indices."""
        return Images(self.images[list(indices)], self.labels[list(indices)])


class Splits(NamedTuple):
    """The splits of a data set: `Images`, or torch Datasets of (image, label)."""

    train: Any
    val: Any
    test: Any


Reader = Callable[[DataOptions], Any]
"""Reads a data set (`lightning_modules.data.sources`); downloads missing files if ``options.download`` is set."""


class ImageData(Data):
    """Data module of a data set that a function reads. Arrays are held on the training GPU if they fit there.

    Args:
        read: Reads the data set.
        options: The data group of the configuration.
        seed: Seed of the order of the training images.
    """

    def __init__(self, read: Reader, options: DataOptions, seed: int = 0) -> None:
        super().__init__(options, seed)
        self._read = read
        self._splits: Splits | None = None
        self._stores: dict[str, Store] = {}

    def prepare_data(self) -> None:
        """Download missing files, in one process only."""
        if self.options.download:
            read = self._read(self.options)
            if isinstance(read, LightningDataModule):
                read.prepare_data()

    def setup(self, stage: str | None = None) -> None:
        """Read the data set, once, and check its channels and classes.

        Raises:
            ConvzooError: The data set is missing, or does not match the configuration.
        """
        if self._splits is None:
            from lightning_modules.data.sources import splits_of

            read = self._read(self.options.having(download=False))
            if isinstance(read, LightningDataModule):
                read.setup("fit")
                read.setup("test")
            splits = splits_of(self.options.name, read)
            for split, part in zip(Splits._fields, splits, strict=True):
                self._check(split, part)
            self._splits = splits._replace(train=self._chosen(splits.train))

    def _chosen(self, train: Any) -> Any:
        """Return ``data.train_images`` of the training images."""
        if self.options.train_images is None:
            return train
        labels = train.labels.tolist() if isinstance(train, Images) else train.labels()
        return train.at(chosen(labels, self.options.train_images))

    def _check(self, split: str, part: Any) -> None:
        name = self.options.name
        if not isinstance(part, Images):
            if not len(part):
                raise ConvzooError(f"{split} of data={name} has no images.")
            self._items(split, part).__getitems__((0, [0]))
        elif split == "train":
            channels, classes = part.images.shape[1], int(part.labels.max()) + 1
            if channels != self.options.in_chans:
                raise ConvzooError(f"{name} has {channels} channels: type data.in_chans={channels}.")
            if classes > self.options.num_classes:
                raise ConvzooError(f"{name} has {classes} classes: type data.num_classes={classes}.")

    def size(self, split: str) -> int:
        self.prepare_data()
        self.setup()
        part = getattr(self._splits, split)
        return len(part.labels if isinstance(part, Images) else part)

    def _loader(self, split: str) -> Any:
        part = getattr(self._splits, split)
        if not isinstance(part, Images):
            return self.files_loader(self._items(split, part), split)
        batches = self._batches(len(part.labels), split == "train")
        store = self._stores.get(split) or self._store(split)
        labels = getattr(self._splits, split).labels
        return TensorLoader(store, labels, batches, pinned=self._device.type == "cuda" and not store.bytes.is_cuda)

    def _items(self, split: str, part: Any) -> Any:
        from lightning_modules.data.items import ItemBatches

        return ItemBatches(part, split, self.options, self.seed)

    def _store(self, split: str) -> Store:
        images, labels = getattr(self._splits, split)
        augment, device = self.options.augment, self._device
        changes = (augment.crop_padding or 0, bool(augment.hflip)) if split == "train" else ()
        store = Store(images, *changes)
        if device.type == "cuda" and store.bytes.numel() <= GPU_SHARE * torch.cuda.mem_get_info(device)[0]:
            store, labels = store.to(device), labels.to(device)
        # Replace the original images by the store's view, so that memory holds only one copy.
        self._splits = self._splits._replace(**{split: Images(store.images, labels)})
        self._stores[split] = store
        return store
