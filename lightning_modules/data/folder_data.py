"""Data module of image folders, decoded by worker processes."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback
from torch.utils.data import DataLoader

from lightning_modules.config.schema import DataOptions
from lightning_modules.data.bad_images import METRIC, BadImages, CountBadImages
from lightning_modules.data.base import Data
from lightning_modules.data.layout import class_names, scan, split_names
from lightning_modules.data.registry import dataset
from lightning_modules.data.split import Split, overview
from zoo.errors import ConvzooError
from zoo.log import log

MAX_BAD = 0.001
"""Default of ``data.max_bad_images``, for checkpoints without it."""


@dataset("imagefolder")
class FolderData(Data):
    """Data module of image files in class folders, decoded by worker processes.

    Raises:
        ConvzooError: The folder does not match the configuration.
    """

    def __init__(self, options: DataOptions, seed: int = 0) -> None:
        self._scanned: dict[str, Any] = {}
        self._resumed = False
        super().__init__(self._with_classes(options), seed)

    def _with_classes(self, options: DataOptions) -> DataOptions:
        """Return the options with ``num_classes`` filled in."""
        classes = len(class_names(options.root))
        if classes < 2:
            raise ConvzooError(f"{options.root}/train has only one class folder; a classifier needs two or more.")
        if options.in_chans != 3:
            raise ConvzooError("imagefolder reads images in colour: type data.in_chans=3.")
        if options.num_classes not in (None, classes):
            raise ConvzooError(
                f"data.num_classes={options.num_classes}, but {options.root}/train has {classes} class folders."
            )
        return options.having(num_classes=classes)

    def size(self, split: str) -> int:
        return len(self._split(split))

    def _split(self, name: str) -> Split:
        """Return a split; scan it only once, since a large folder on a network file system takes long."""
        if name not in self._scanned:
            self._scanned[name] = scan(self.options.root, name)
        return self._scanned[name]

    @property
    def _splits(self) -> list[Split]:
        return [self._split(name) for name in split_names(self.options.root)]

    @property
    def _where(self) -> str:
        return f"{self.options.root}/train"

    @cached_property
    def bad(self) -> BadImages:
        """Bad images of this run."""
        allowed = self.options.max_bad_images
        return BadImages(MAX_BAD if allowed is None else allowed, sum(map(len, self._splits)))

    def look(self) -> None:
        log.info(overview(self._splits))
        for split in self._splits:
            for path, reason in split.bad():
                self.bad.note(path, reason)
        # data.check reads all images and must report all bad ones before it stops the run.
        if not self.options.check:
            self.bad.check()

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

            check_all(self._splits, self.bad, folder, self._workers(), trainer.global_rank, trainer.world_size)

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "files": self._split("train").fingerprint}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self._resumed = True
        before, now = state.get("files"), self._split("train").fingerprint
        if before not in (None, now):
            raise ConvzooError(
                f"{self._where} has changed since this run was stopped ({now}; before: {before}), so it "
                "cannot resume exactly. Type another hydra.run.dir, or remove last.ckpt to start again. Bad images "
                "need not be removed: data.max_bad_images says how many may be left out."
            )

    def _loader(self, split: str) -> DataLoader:
        from lightning_modules.data.folder import FolderLoader, View

        # Without a test split, val is tested, as usual for ImageNet.
        part = self._split(split) if split != "test" else self._splits[-1]
        size, augment = self.options.image_size, self.options.augment
        if split == "train":
            view = View(size, augment.random_resized_crop, augment.hflip, self.seed)
        else:
            view = View(size, augment.crop_ratio)
        return self.files_loader(self._images(part, view), split, FolderLoader, bad=self.bad)

    def _images(self, part: Any, view: Any) -> Any:
        from lightning_modules.data.folder import FolderImages

        return FolderImages(part.images, *view)
