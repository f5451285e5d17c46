"""The Lightning data modules."""

from __future__ import annotations

import os
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader

from lightning_modules.data.augment import Augment, Mix
from lightning_modules.data.batches import ShardedBatches
from lightning_modules.data.prepare import Prepare
from lightning_modules.data.sources import SOURCES, Images, Splits
from lightning_modules.data.store import GPU_SHARE, Store, TensorLoader
from zoo.errors import ConvzooError, choose

if TYPE_CHECKING:
    from lightning_modules.data.folder import FolderImages

AHEAD = 8
"""Batches of an image folder, over all worker processes, that are made before they are asked for."""


class _Data(LightningDataModule):
    """What all data sets share: their size, their batches' way to the device, their share of a job's ranks.

    Attributes:
        data: The data group of the configuration, with ``image_size`` and ``num_classes`` resolved.
        device: Where batches go while there is no Trainer to say so.
        prepare: From a batch's bytes to what the network sees.
    """

    def __init__(self, data: dict[str, Any], seed: int) -> None:
        super().__init__()
        # Into the checkpoint: whoever deploys the network needs its image size, its normalisation and its test images.
        self.save_hyperparameters({"data": data, "seed": seed}, logger=False)
        self.data, self.seed = data, seed
        self.device = torch.device("cpu")
        self._done = (0, 0)
        augment = data["augment"]
        self.prepare = Prepare(data["image_size"], data["mean"], data["std"], _some(Augment, augment))
        self._mix = _some(Mix, augment | {"classes": data["num_classes"]})

    def state_dict(self) -> dict[str, int]:
        """How far training has come: the epoch, and the batches of it."""
        loop = self.trainer.fit_loop.epoch_loop.batch_progress
        if loop.is_last_batch:
            return {"epoch": self.trainer.current_epoch + 1, "batches": 0}
        return {"epoch": self.trainer.current_epoch, "batches": loop.current.ready}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self._done = state["epoch"], state["batches"]

    @property
    def _device(self) -> torch.device:
        return self.trainer.strategy.root_device if self.trainer else self.device

    def _batches(self, n: int, training: bool, kind: type[ShardedBatches] = ShardedBatches) -> ShardedBatches:
        rank, world = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        batch_size = self.data["batch_size"]
        if batch_size % world:
            raise ConvzooError(
                f"data.batch_size={batch_size} cannot be shared out over {world} processes. "
                f"Type a multiple of {world}, such as data.batch_size={-(-batch_size // world) * world}."
            )
        # Evaluation needs no gradients: larger batches, same result.
        size = batch_size if training else max(batch_size, 128 * world)
        return kind(n, size, training, self.seed, rank, world, self._done if training else (0, 0))

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        # In true half precision the network's weights are half too.
        return self.finish(*batch, self.trainer.training, self.trainer.lightning_module.dtype)

    def finish(
        self, images: torch.Tensor, labels: torch.Tensor, training: bool, dtype: torch.dtype
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """What is left to do on the device: from bytes (N, C, H, W) to what the network sees, augmented in training."""
        images = self.prepare(images, training, dtype)
        return self._mix(images, labels) if training else (images, labels)


def _some(kind: type, values: dict[str, Any]) -> Any:
    """Makes a dataclass of those values that are its fields."""
    return kind(**{field.name: values[field.name] for field in fields(kind) if field.name in values})


class ImageData(_Data):
    """A data set that lies in memory as bytes: on the GPU that trains on it, where it fits."""

    def __init__(self, data: dict[str, Any], seed: int = 0) -> None:
        super().__init__(data, seed)
        self._splits: Splits | None = None
        self._stores: dict[str, tuple[Store, torch.Tensor]] = {}

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
        batches = self._batches(len(getattr(self._splits, split).labels), split == "train")
        if split not in self._stores:
            self._stores[split] = self._store(split)
        store, labels = self._stores[split]
        return TensorLoader(store, labels, batches, pinned=self._device.type == "cuda" and not store.bytes.is_cuda)

    def _store(self, split: str) -> tuple[Store, torch.Tensor]:
        images, labels = getattr(self._splits, split)
        augment = self.data["augment"] if split == "train" else {}
        store = Store(images, augment.get("crop_padding", 0), augment.get("hflip", False))
        device = self._device
        if device.type == "cuda" and store.bytes.numel() <= GPU_SHARE * torch.cuda.mem_get_info(device)[0]:
            store, labels = store.to(device), labels.to(device)
        # Not a second copy beside it.
        self._splits = self._splits._replace(**{split: Images(store.images, labels)})
        return store, labels

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
        self._scanned: dict[str, FolderImages] = {}

    def size(self, split: str) -> int:
        """How many images ``train`` or ``val`` has.

        Raises:
            ConvzooError: The folder does not have the layout.
        """
        return len(self._images(split))

    def _images(self, split: str) -> FolderImages:
        """One split, scanned once: a large folder on a network file system takes long."""
        if split not in self._scanned:
            self._scanned[split] = self._scan(split)
        return self._scanned[split]

    def _scan(self, split: str) -> FolderImages:
        from lightning_modules.data.folder import FolderImages, image_files

        size, augment, files = self.data["image_size"], self.data["augment"], image_files(self.data["root"], split)
        if split == "train":
            return FolderImages(files, size, augment["random_resized_crop"], augment["hflip"], self.seed)
        return FolderImages(files, size, augment["crop_ratio"])

    def _loader(self, split: str) -> DataLoader:
        from lightning_modules.data.folder import FolderBatches, as_they_are

        images = self._images(split)
        workers = self._workers()
        return DataLoader(
            images,
            batch_sampler=self._batches(len(images), split == "train", FolderBatches),
            collate_fn=as_they_are,
            num_workers=workers,
            prefetch_factor=max(2, -(-AHEAD // workers)) if workers else None,
            persistent_workers=workers > 0 and split != "test",
            pin_memory=self._device.type == "cuda",
            # Its own: a DataLoader's draws must not change what the rest of the run draws.
            generator=torch.Generator().manual_seed(self.seed),
        )

    def _workers(self) -> int:
        """Processes that decode images for this rank: all cores but one where a GPU computes, else a quarter of them.

        On a CPU the network needs the cores, and decoding is a small part of the work.
        """
        if self.data["workers"] is not None:
            return self.data["workers"]
        cores = len(os.sched_getaffinity(0))
        spare = cores // 4 if self._device.type == "cpu" else cores - 1
        return max(1, spare // (self.trainer.num_devices if self.trainer else 1))

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
