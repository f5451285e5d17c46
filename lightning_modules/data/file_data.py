"""Base class of data modules of image files, decoded by worker processes."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback
from torch.utils.data import DataLoader

from lightning_modules.config.schema import DataOptions
from lightning_modules.data.bad_images import METRIC, BadImages, CountBadImages
from lightning_modules.data.base import Data
from lightning_modules.data.files import BadImage, read, shown
from lightning_modules.data.split import Split, overview
from lightning_modules.data.subset import chosen, hold_out
from zoo.errors import ConvzooError
from zoo.log import log

MAX_BAD = 0.001
"""Default of ``data.max_bad_images``, for checkpoints without it."""


def with_val_share(splits: Sequence[Split], share: float | None) -> list[Split]:
    """Hold out a share of train as val; what was val is then tested, unless there is a test split.

    Args:
        splits: train, and val and test if they exist.
        share: The share; None: change nothing.
    """
    train, *others = splits
    if share is None:
        return list(splits)
    kept, held_out = hold_out([label for _, label in train.images], share)
    return [train.at(kept), train.at(held_out, "val"), *(split.named("test") for split in others[-1:])]


class FileData(Data):
    """Data module of image files. Subclasses define `_read`.

    Args:
        options: The data group of the configuration.
        seed: Seed of the order and of the augmentation.
        classes: Names of the classes.
        where: Where they were found, for messages.

    Raises:
        ConvzooError: The files do not match the configuration.
    """

    def __init__(self, options: DataOptions, seed: int, classes: Sequence[str], where: str) -> None:
        if len(classes) < 2:
            raise ConvzooError(f"{where} has only one class; a classifier needs two or more.")
        if options.num_classes not in (None, len(classes)):
            raise ConvzooError(f"data.num_classes={options.num_classes}, but {where} has {len(classes)} classes.")
        super().__init__(options.having(num_classes=len(classes)), seed)
        self.classes, self.where = list(classes), where
        self._resumed = False

    def _read(self) -> list[Split]:
        """List the images: train, val, and test if there is one."""
        raise NotImplementedError

    @cached_property
    def splits(self) -> list[Split]:
        """The splits; listed only once, since a large folder on a network file system takes long."""
        train, *others = self._read()
        n = self.options.train_images
        return [train if n is None else train.at(chosen([label for _, label in train.images], n)), *others]

    def _split(self, name: str) -> Split:
        # Without a test split, val is tested, as usual for ImageNet.
        return self.splits[{"train": 0, "val": 1, "test": -1}[name]]

    def size(self, split: str) -> int:
        return len(self._split(split))

    @cached_property
    def bad(self) -> BadImages:
        """Bad images of this run."""
        allowed = self.options.max_bad_images
        return BadImages(MAX_BAD if allowed is None else allowed, sum(map(len, self.splits)))

    def look(self) -> None:
        log.info(overview(self.splits))
        self._check_channels()
        for split in self.splits:
            for path, reason in split.bad():
                self.bad.note(path, reason)
        # data.check reads all images and must report all bad ones before it stops the run.
        if not self.options.check:
            self.bad.check()

    def _check_channels(self) -> None:
        """Read the first image, since all others probably have its channels.

        Raises:
            ConvzooError: It has others than ``data.in_chans``.
        """
        from lightning_modules.data.channels import OTHER
        from lightning_modules.data.decode import decode

        path = self._split("train").images[0][0]
        try:
            decode(read(path, 0), channels=self.options.in_chans)
        except BadImage as error:
            # Any other bad image counts once the run reads it.
            if error.kind == OTHER:
                raise ConvzooError(
                    f"{shown(path)}: {error}. Type data.in_chans=N, with data.mean and data.std of N numbers."
                ) from None

    @property
    def callbacks(self) -> list[Callback]:
        return [CountBadImages(self.bad, self.begin)]

    @property
    def metrics(self) -> dict[str, float]:
        return {METRIC: len(self.bad.found)}

    def begin(self, trainer: Any) -> None:
        """Open the run's list of bad images before training, and read all images if ``data.check`` is set."""
        folder = Path(trainer.default_root_dir)
        self.bad.follow(folder, self._resumed, trainer.is_global_zero)
        trainer.strategy.barrier()
        if self.options.check and not self._resumed:
            from lightning_modules.data.check import check_all

            check_all(
                self.splits,
                self.bad,
                folder,
                self._workers(),
                trainer.global_rank,
                trainer.world_size,
                channels=self.options.in_chans,
            )

    @property
    def fingerprint(self) -> str:
        """Checksum of the training images."""
        return self._split("train").fingerprint

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "files": self.fingerprint}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self._resumed = True
        before, now = state.get("files"), self.fingerprint
        if before not in (None, now):
            raise ConvzooError(
                f"{self.where} has changed since this run was stopped ({now}; before: {before}), so it "
                "cannot resume exactly. Type another hydra.run.dir, or remove last.ckpt to start again. Bad images "
                "need not be removed: data.max_bad_images says how many may be left out."
            )

    def _loader(self, split: str) -> DataLoader:
        from lightning_modules.data.folder import FolderLoader, View

        size, augment = self.options.image_size, self.options.augment
        if split == "train":
            view = View(size, augment.random_resized_crop, augment.hflip, self.seed, self.options.in_chans)
        else:
            view = View(size, augment.crop_ratio, channels=self.options.in_chans)
        return self.files_loader(self._images(self._split(split), view), split, FolderLoader, bad=self.bad)

    def _images(self, split: Any, view: Any) -> Any:
        from lightning_modules.data.folder import FolderImages

        return FolderImages(split.images, *view)
