"""Base class of all data modules: batch order, preparation on the device, progress for resuming."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import torch
from lightning.pytorch import Callback, LightningDataModule

from lightning_modules.config.schema import DataOptions
from lightning_modules.data.augment import Augment, Mix
from lightning_modules.data.batches import ShardedBatches
from lightning_modules.data.prepare import Prepare
from zoo.errors import ConvzooError


class Data(LightningDataModule):
    """Base class of data modules: shards batches over a job's ranks and prepares them on the device.

    Attributes:
        options: The data group of the configuration, with ``image_size`` and ``num_classes`` resolved.
        device: Device for batches while no Trainer is attached.
        prepare: Turns a batch's bytes into the network's input.
    """

    def __init__(self, options: DataOptions, seed: int) -> None:
        super().__init__()
        # Checkpoints hold these: deployment needs the network's image size, normalisation and test images.
        self.save_hyperparameters({"data": options.plain(), "seed": seed}, logger=False)
        self.options, self.seed = options, seed
        self.device = torch.device("cpu")
        self._done = (0, 0)
        augment = options.augment.plain()
        self.prepare = Prepare(options.image_size, options.mean, options.std, _some(Augment, augment))
        self._mix = _some(Mix, augment | {"classes": options.num_classes})

    def state_dict(self) -> dict[str, int]:
        """Return training's progress: the epoch, and the number of its batches that are done."""
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
        """Look for problems with the data without reading them.

        Args:
            tell: Print an overview of the data.

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
                f"data.batch_size={batch_size} cannot be shared out over {world} processes. "
                f"Type a multiple of {world}, such as data.batch_size={-(-batch_size // world) * world}."
            )
        # Without gradients larger batches fit, and the result is the same.
        size = batch_size if training else max(batch_size, 128 * world)
        return kind(n, size, training, self.seed, rank, world, self._done if training else (0, 0))

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        # In true half precision the network's weights, and so its input, are half precision too.
        return self.finish(*batch, self.trainer.training, self.trainer.lightning_module.dtype)

    def finish(
        self, images: torch.Tensor, labels: torch.Tensor, training: bool, dtype: torch.dtype
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Turn bytes (N, C, H, W) into the network's input, on the device; augments and mixes in training."""
        images = self.prepare(images, training, dtype)
        return self._mix(images, labels) if training else (images, labels)


def _some(kind: type, values: dict[str, Any]) -> Any:
    """Make a dataclass from the values that are its fields; ignore the others."""
    return kind(**{field.name: values[field.name] for field in fields(kind) if field.name in values})
