"""Data module of data sets that fit in memory, and `make_data`, which chooses the module of a configuration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from lightning_modules.config.schema import DataOptions
from lightning_modules.data.base import Data
from lightning_modules.data.folder_data import FolderData
from lightning_modules.data.layout import class_names
from lightning_modules.data.sources import SOURCES, WITHOUT_FILES, Images, Splits
from lightning_modules.data.store import GPU_SHARE, Store, TensorLoader
from zoo.errors import ConvzooError, choose


class ImageData(Data):
    """Data module of a data set that is held in memory as bytes, on the training GPU if it fits there."""

    def __init__(self, options: DataOptions, seed: int = 0) -> None:
        super().__init__(options, seed)
        self._splits: Splits | None = None
        self._stores: dict[str, tuple[Store, torch.Tensor]] = {}

    def prepare_data(self) -> None:
        """Download missing files, in one process only."""
        if self.options.download:
            SOURCES[self.options.name](self.options)

    def setup(self, stage: str | None = None) -> None:
        """Read the data set, once, and check its channels and classes.

        Raises:
            ConvzooError: The data set is missing, or does not match the configuration.
        """
        if self._splits is None:
            self._splits = SOURCES[self.options.name](self.options.having(download=False))
            channels, classes = self._splits.train.images.shape[1], int(self._splits.train.labels.max()) + 1
            if channels != self.options.in_chans:
                raise ConvzooError(f"{self.options.name} has {channels} channels: type data.in_chans={channels}.")
            if classes > self.options.num_classes:
                raise ConvzooError(f"{self.options.name} has {classes} classes: type data.num_classes={classes}.")

    def size(self, split: str) -> int:
        """Return the number of images in ``train``, ``val`` or ``test``; reads the data set.

        Raises:
            ConvzooError: The data set is missing, or does not match the configuration.
        """
        self.prepare_data()
        self.setup()
        return len(getattr(self._splits, split)[1])

    def _loader(self, split: str) -> TensorLoader:
        batches = self._batches(len(getattr(self._splits, split).labels), split == "train")
        if split not in self._stores:
            self._stores[split] = self._store(split)
        store, labels = self._stores[split]
        return TensorLoader(store, labels, batches, pinned=self._device.type == "cuda" and not store.bytes.is_cuda)

    def _store(self, split: str) -> tuple[Store, torch.Tensor]:
        images, labels = getattr(self._splits, split)
        augment = self.options.augment
        changes = (augment.crop_padding or 0, bool(augment.hflip)) if split == "train" else ()
        store = Store(images, *changes)
        device = self._device
        if device.type == "cuda" and store.bytes.numel() <= GPU_SHARE * torch.cuda.mem_get_info(device)[0]:
            store, labels = store.to(device), labels.to(device)
        # Replace the original images by the store's view, so that memory holds only one copy.
        self._splits = self._splits._replace(**{split: Images(store.images, labels)})
        return store, labels

    def train_dataloader(self) -> TensorLoader:
        return self._loader("train")

    def val_dataloader(self) -> TensorLoader:
        return self._loader("val")

    def test_dataloader(self) -> TensorLoader:
        return self._loader("test")


def make_data(options: DataOptions | Mapping[str, Any], seed: int = 0) -> ImageData | FolderData:
    """Make the data module of a configuration.

    Args:
        options: The data group, or its plain values, with ``image_size`` resolved
            (`lightning_modules.config.scaling.image_sizes`). ``num_classes`` may be None for an image folder, whose
            class folders are counted.
        seed: Seed of the order of the training images.

    Raises:
        ConvzooError: The data set is unknown, its files are missing, or it does not match the configuration.
    """
    if not isinstance(options, DataOptions):
        options = DataOptions.of(options, "data")
    name = choose("data", options.name, [*SOURCES, "imagefolder"])
    if options.root is None and name not in WITHOUT_FILES:
        raise ConvzooError(f"data.root=null: data={name} lies in a folder. Type data.root=FOLDER.")
    if name in SOURCES:
        return ImageData(options, seed)
    found = len(class_names(options.root))
    if found < 2:
        raise ConvzooError(f"{options.root}/train has one class folder only: there is nothing to tell apart.")
    if options.in_chans != 3:
        raise ConvzooError("imagefolder reads images in colour: type data.in_chans=3.")
    if options.num_classes not in (None, found):
        raise ConvzooError(
            f"data.num_classes={options.num_classes}, but {options.root}/train has {found} class folders."
        )
    return FolderData(options.having(num_classes=found), seed)
