"""The Lightning data modules."""

from __future__ import annotations

import os
from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader

from lightning_modules.data.augment import Augment, Prepare
from lightning_modules.data.batches import ShardedBatches, TensorLoader
from lightning_modules.data.sources import SOURCES
from zoo.errors import ConvzooError, choose


class _Data(LightningDataModule):
    """What all data sets share: their size, their batches' way to the device, their share of a job's ranks.

    Attributes:
        data: The data group of the configuration, with ``image_size`` and ``num_classes`` resolved.
    """

    def __init__(self, data: dict[str, Any], seed: int) -> None:
        super().__init__()
        # Into the checkpoint: whoever deploys the network needs its image size, its normalisation and its test images.
        self.save_hyperparameters({"data": data, "seed": seed}, logger=False)
        self.data, self.seed = data, seed
        self._done = (0, 0)

    def state_dict(self) -> dict[str, int]:
        """How far training has come: the epoch, and the batches of it."""
        loop = self.trainer.fit_loop.epoch_loop.batch_progress
        if loop.is_last_batch:
            return {"epoch": self.trainer.current_epoch + 1, "batches": 0}
        return {"epoch": self.trainer.current_epoch, "batches": loop.current.ready}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self._done = state["epoch"], state["batches"]

    def _batches(self, n: int, training: bool) -> ShardedBatches:
        rank, world = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        batch_size = self.data["batch_size"]
        if batch_size % world:
            raise ConvzooError(
                f"data.batch_size={batch_size} cannot be shared out over {world} processes. "
                f"Type a multiple of {world}, such as data.batch_size={-(-batch_size // world) * world}."
            )
        # Evaluation needs no gradients: larger batches, same result.
        size = batch_size if training else max(batch_size, 128 * world)
        return ShardedBatches(n, size, training, self.seed, rank, world, self._done if training else (0, 0))

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        images, labels = batch
        # In true half precision the network's weights are half too.
        return self.prepare(images, self.trainer.training).to(self.trainer.lightning_module.dtype), labels


class ImageData(_Data):
    """A data set that lies in memory as bytes; augmentation acts on whole batches on the device."""

    def __init__(self, data: dict[str, Any], seed: int = 0) -> None:
        super().__init__(data, seed)
        augment = Augment(**data["augment"])
        self.prepare = Prepare(data["image_size"], data["mean"], data["std"], augment)
        self._splits = None

    def prepare_data(self) -> None:
        """Fetches what is missing, in one process only."""
        if self.data["download"]:
            SOURCES[self.data["name"]](self.data)

    def setup(self, stage: str | None = None) -> None:
        """Reads the data set, once."""
        if self._splits is None:
            self._splits = SOURCES[self.data["name"]]({**self.data, "download": False})
            channels, classes = self._splits.train.images.shape[1], int(self._splits.train.labels.max()) + 1
            if channels != self.data["in_chans"]:
                raise ConvzooError(f"{self.data['name']} has {channels} channels: type data.in_chans={channels}.")
            if classes > self.data["num_classes"]:
                raise ConvzooError(f"{self.data['name']} has {classes} classes: type data.num_classes={classes}.")

    def size(self, split: str) -> int:
        """How many images ``train``, ``val`` or ``test`` has; reads the data set.

        Raises:
            ConvzooError: The data set is not there, or not what the configuration says.
        """
        self.prepare_data()
        self.setup()
        return len(getattr(self._splits, split)[1])

    def _loader(self, split: str) -> TensorLoader:
        images, labels = getattr(self._splits, split)
        return TensorLoader(images, labels, self._batches(len(labels), split == "train"))

    def train_dataloader(self) -> TensorLoader:
        return self._loader("train")

    def val_dataloader(self) -> TensorLoader:
        return self._loader("val")

    def test_dataloader(self) -> TensorLoader:
        return self._loader("test")


class FolderData(_Data):
    """Image files in class folders, decoded by worker processes."""

    def __init__(self, data: dict[str, Any], seed: int = 0) -> None:
        super().__init__(data, seed)
        self.prepare = Prepare(data["image_size"], data["mean"], data["std"])

    def size(self, split: str) -> int:
        """How many images ``train`` or ``val`` has.

        Raises:
            ConvzooError: The folder does not have the layout.
        """
        return len(self._images(split))

    def _images(self, split: str) -> Any:
        from lightning_modules.data.folder import image_folder

        data = self.data
        return image_folder(data["root"], split, data["image_size"], data["augment"], split == "train")

    def _loader(self, split: str) -> DataLoader:
        training = split == "train"
        images = self._images(split)
        batches = self._batches(len(images), training)
        workers = self.data["workers"]
        workers = len(os.sched_getaffinity(0)) if workers is None else workers
        return DataLoader(
            images,
            batch_sampler=batches,
            num_workers=workers,
            persistent_workers=training and workers > 0,
            pin_memory=torch.accelerator.is_available(),
            # Its own: the workers' seeds must not change what the rest of the run draws.
            generator=torch.Generator().manual_seed(self.seed),
        )

    def train_dataloader(self) -> DataLoader:
        return self._loader("train")

    def val_dataloader(self) -> DataLoader:
        return self._loader("val")

    def test_dataloader(self) -> DataLoader:
        """``root/test`` where there is one; else the validation images are tested, as is usual with ImageNet."""
        has_test = os.path.isdir(os.path.join(os.path.expanduser(self.data["root"]), "test"))
        return self._loader("test" if has_test else "val")


def make_data(data: dict[str, Any], seed: int = 0) -> ImageData | FolderData:
    """Makes the data module of a configuration.

    Args:
        data: The data group, with ``image_size`` resolved (`lightning_modules.scaling.image_sizes`). ``num_classes``
            may be None for an image folder: it is counted.
        seed: Of the order of the training images.

    Raises:
        ConvzooError: A data set that does not exist, or files that are missing.
    """
    name = choose("data", data["name"], [*SOURCES, "imagefolder"])
    if name in SOURCES:
        return ImageData(data, seed)
    from lightning_modules.data.folder import classes

    found = len(classes(data["root"]))
    if found < 2:
        raise ConvzooError(f"{data['root']}/train has one class folder only: there is nothing to tell apart.")
    if data["in_chans"] != 3:
        raise ConvzooError("imagefolder reads images in colour: type data.in_chans=3.")
    if data["num_classes"] not in (None, found):
        raise ConvzooError(
            f"data.num_classes={data['num_classes']}, but {data['root']}/train has {found} class folders."
        )
    return FolderData({**data, "num_classes": found}, seed)
