"""The Lightning data modules."""

from __future__ import annotations

import os
from dataclasses import fields
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningDataModule
from torch.utils.data import DataLoader

from lightning_modules.data.augment import Augment, Mix
from lightning_modules.data.bad import METRIC, BadImages, CountBadImages
from lightning_modules.data.batches import ShardedBatches
from lightning_modules.data.layout import Split, class_names, has_split, scan
from lightning_modules.data.overview import overview
from lightning_modules.data.prepare import Prepare
from lightning_modules.data.sources import SOURCES, Images, Splits
from lightning_modules.data.store import GPU_SHARE, Store, TensorLoader
from zoo.errors import ConvzooError, choose

MAX_BAD = 0.001
"""``data.max_bad_images``, for checkpoints that do not have it."""
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

    def look(self, tell: bool) -> None:
        """Looks for what is wrong with the data without reading them.

        Args:
            tell: Print what a person should know.

        Raises:
            ConvzooError: They cannot be used.
        """

    @property
    def callbacks(self) -> list[Callback]:
        """What the Trainer needs for these data."""
        return []

    @property
    def metrics(self) -> dict[str, float]:
        """What was found out about the data in this run."""
        return {}

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
        self._scanned: dict[str, Split] = {}
        self._goes_on = False

    def size(self, split: str) -> int:
        """How many images ``train`` or ``val`` has.

        Raises:
            ConvzooError: The folder does not have the layout.
        """
        return len(self._split(split))

    def _split(self, name: str) -> Split:
        """One split, scanned once: a large folder on a network file system takes long."""
        if name not in self._scanned:
            self._scanned[name] = scan(self.data["root"], name)
        return self._scanned[name]

    @property
    def _splits(self) -> list[Split]:
        """``test`` where there is one; else the validation images are tested, as is usual with ImageNet."""
        tested = ["test"] if has_split(self.data["root"], "test") else []
        return [self._split(name) for name in ("train", "val", *tested)]

    @cached_property
    def bad(self) -> BadImages:
        """The bad images of this run."""
        return BadImages(self.data.get("max_bad_images", MAX_BAD), sum(map(len, self._splits)))

    def look(self, tell: bool) -> None:
        if tell:
            print(overview(self._splits), flush=True)
        for split in self._splits:
            for path, reason in split.bad():
                self.bad.note(path, reason)
        # Who wants all images read wants to know of all that are bad.
        if not self.data.get("check"):
            self.bad.check()

    @property
    def callbacks(self) -> list[Callback]:
        return [CountBadImages(self.bad, self.begin)]

    @property
    def metrics(self) -> dict[str, float]:
        return {METRIC: len(self.bad.found)}

    def begin(self, trainer: Any) -> None:
        """Before training: opens the run's list of bad images, and reads all images if ``data.check`` says so."""
        folder = Path(trainer.default_root_dir)
        self.bad.follow(folder, self._goes_on, trainer.is_global_zero)
        trainer.strategy.barrier()
        if self.data.get("check") and not self._goes_on:
            from lightning_modules.data.check import check_all

            check_all(self._splits, self.bad, folder, self._workers(), trainer.global_rank, trainer.world_size)

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "files": self._split("train").fingerprint}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self._goes_on = True
        before, now = state.get("files"), self._split("train").fingerprint
        if before not in (None, now):
            raise ConvzooError(
                f"{self.data['root']}/train has other files than when this run was stopped ({now}; it was {before}), "
                "so it cannot go on to the same end. Type another hydra.run.dir, or remove last.ckpt to start anew. "
                "Bad images need not be removed: data.max_bad_images says how many are left out."
            )

    def _loader(self, name: str) -> DataLoader:
        from lightning_modules.data.folder import FolderBatches, FolderImages, FolderLoader

        files, size, augment = self._split(name).images, self.data["image_size"], self.data["augment"]
        if name == "train":
            images = FolderImages(files, size, augment["random_resized_crop"], augment["hflip"], self.seed)
        else:
            images = FolderImages(files, size, augment["crop_ratio"])
        workers = self._workers()
        return FolderLoader(
            images,
            self.bad,
            batch_sampler=self._batches(len(images), name == "train", FolderBatches),
            num_workers=workers,
            prefetch_factor=max(2, -(-AHEAD // workers)) if workers else None,
            persistent_workers=workers > 0 and name != "test",
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
        return self._loader(self._splits[-1].name)


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
    found = len(class_names(data["root"]))
    if found < 2:
        raise ConvzooError(f"{data['root']}/train has one class folder only: there is nothing to tell apart.")
    if data["in_chans"] != 3:
        raise ConvzooError("imagefolder reads images in colour: type data.in_chans=3.")
    if data["num_classes"] not in (None, found):
        raise ConvzooError(
            f"data.num_classes={data['num_classes']}, but {data['root']}/train has {found} class folders."
        )
    return FolderData({**data, "num_classes": found}, seed)
