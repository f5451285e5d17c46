"""Base class of all data modules: batch order, preparation on the device, progress for resuming."""

from __future__ import annotations

import inspect
import os
from typing import Any

import torch
from lightning.pytorch import Callback, LightningDataModule

from lightning_modules.config.schema import DataOptions
from lightning_modules.data.augment import Augment, Prepare, make_mix
from lightning_modules.data.augmentations import Augmentation
from lightning_modules.data.batches import EpochBatches, ShardedBatches
from lightning_modules.data.workers import WatchedImages, WatchedLoader
from zoo import devices
from zoo.errors import ConvzooError

AHEAD = 8
"""Number of batches that are prefetched, over all worker processes."""


class Data(LightningDataModule):
    """Base class of data modules: shards batches over a job's ranks and prepares them on the device.

    Subclasses define `size` and `_loader`.

    Attributes:
        options: The data group of the configuration, with ``image_size`` and ``num_classes`` resolved.
        device: Device for batches while no Trainer is attached.
        prepare: Turns a batch's bytes into the network's input.
        augmentation: The user's own augmentation of training images, after ours.
    """

    def __init__(self, options: DataOptions, seed: int = 0) -> None:
        super().__init__()
        # Checkpoints hold these: deployment needs the network's image size, normalisation and test images.
        # Without a given frame Lightning keeps its own in a reference cycle, and with it the data and their workers.
        hparams = {"data": options.plain(), "seed": seed}
        self.save_hyperparameters(hparams, logger=False, frame=inspect.currentframe())
        self.options, self.seed = options, seed
        self.device = torch.device("cpu")
        self._done = (0, 0)
        augment = options.augment
        self.prepare = Prepare(options.image_size, options.mean, options.std, Augment.of(augment))
        self.augmentation: Augmentation | None = None
        self._mix = make_mix(options.num_classes, augment.mixup, augment.cutmix)

    def state_dict(self) -> dict[str, Any]:
        """Return training's progress: the epoch, and the number of its batches that are done."""
        loop = self.trainer.fit_loop.epoch_loop.batch_progress
        if loop.is_last_batch:
            return {"epoch": self.trainer.current_epoch + 1, "batches": 0}
        return {"epoch": self.trainer.current_epoch, "batches": loop.current.ready}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._done = state["epoch"], state["batches"]

    @property
    def _device(self) -> torch.device:
        return self.trainer.strategy.root_device if self.trainer else self.device

    def size(self, split: str) -> int:
        """Return the number of images in ``train`` or ``val``.

        Raises:
            ConvzooError: The data set is missing, or does not match the configuration.
        """
        raise NotImplementedError

    def _loader(self, split: str) -> Any:
        """Return the loader of ``train``, ``val`` or ``test``."""
        raise NotImplementedError

    def train_dataloader(self) -> Any:
        return self._loader("train")

    def val_dataloader(self) -> Any:
        return self._loader("val")

    def test_dataloader(self) -> Any:
        return self._loader("test")

    def look(self) -> None:
        """Look for problems with the data without reading them, and log an overview.

        Raises:
            ConvzooError: The data cannot be used.
        """

    @property
    def callbacks(self) -> list[Callback]:
        """Callbacks that the Trainer needs for these data."""
        return []

    @property
    def metrics(self) -> dict[str, float]:
        """Metrics of the data in this run, such as the number of bad images."""
        return {}

    def _batches(self, n: int, training: bool, kind: type[ShardedBatches] = ShardedBatches) -> ShardedBatches:
        rank, world = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        batch_size = self.options.batch_size
        if batch_size % world:
            raise ConvzooError(
                f"data.batch_size={batch_size} cannot be divided among {world} processes. "
                f"Type a multiple of {world}, such as data.batch_size={-(-batch_size // world) * world}."
            )
        # Without gradients larger batches fit, and the result is the same.
        size = batch_size if training else max(batch_size, 128 * world)
        return kind(n, size, training, self.seed, rank, world, self._done if training else (0, 0))

    def files_loader(
        self, images: WatchedImages, split: str, kind: type[WatchedLoader] = WatchedLoader, **options: Any
    ) -> WatchedLoader:
        """Return a loader whose worker processes make the batches of a split.

        Args:
            images: Makes a batch of (epoch, indices).
            split: ``train``, ``val`` or ``test``.
            kind: The loader.
            options: Its further arguments.
        """
        workers = self._workers()
        return kind(
            images,
            batch_sampler=self._batches(len(images), split == "train", EpochBatches),
            num_workers=workers,
            prefetch_factor=max(2, -(-AHEAD // workers)) if workers else None,
            persistent_workers=workers > 0 and split != "test",
            pin_memory=self._device.type == "cuda",
            # A separate generator: a DataLoader's draws must not affect the rest of the run.
            generator=torch.Generator().manual_seed(self.seed),
            **options,
        )

    def _workers(self) -> int:
        """Return this rank's number of worker processes: ``data.workers`` if set, or else by the number of cores.

        With a GPU, the ranks share all cores but one. On a CPU they share a quarter of the cores: the network needs
        the others, and decoding is a small part of the work.
        """
        if self.options.workers is not None:
            return self.options.workers
        cores = devices.cores()
        if (ours := os.environ.get("CONVZOO_CORES", "")).isdigit():
            # The jobs of a sweep share the machine.
            cores = min(cores, int(ours))
        spare = cores // 4 if self._device.type == "cpu" else cores - 1
        return max(1, spare // (self.trainer.num_devices if self.trainer else 1))

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        # In true half precision the network's weights, and so its input, are half precision too.
        return self.finish(*batch, self.trainer.training, self.trainer.lightning_module.dtype)

    def finish(
        self, images: torch.Tensor, labels: torch.Tensor, training: bool, dtype: torch.dtype
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Turn bytes (N, C, H, W) into the network's input, on the device; augments and mixes in training."""
        images = self.prepare(images, training, dtype)
        if training and self.augmentation:
            images = self.augmentation(images)
        return self._mix(images, labels) if training and self._mix else (images, labels)
