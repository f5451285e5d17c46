"""``data=timm``: data sets of `timm.data.create_dataset`, listed or streamed."""

from __future__ import annotations

from typing import Any

import torch

from lightning_modules.config.schema import DataOptions
from lightning_modules.data.batches import EpochBatches, ShardedBatches
from lightning_modules.data.folder_data import FolderData
from lightning_modules.data.registry import dataset
from zoo.errors import ConvzooError
from zoo.log import log

GREY = (19595, 38470, 7471)
"""Shares of red, green and blue in grey, of 65,536: Pillow's, which leave grey as it is."""


@dataset("timm", needs_root=False)
class TimmData(FolderData):
    """Data module of a data set that timm opens: images decoded by worker processes, like those of folders.

    Raises:
        ConvzooError: The data set cannot be read, or does not match the configuration.
    """

    def _with_classes(self, options: DataOptions) -> DataOptions:
        if options.in_chans not in (1, 3):
            raise ConvzooError(f"data.in_chans={options.in_chans} is not allowed with data=timm. Allowed: 1, 3.")
        classes, given = self._opened(options, "train").classes, options.num_classes
        if (given or classes) < max(2, classes):
            raise ConvzooError(
                f"{options.source} has {classes} classes{f', not data.num_classes={given}' if given else ''}. "
                + (f"Type data.num_classes={classes}." if classes > 1 else "A classifier needs two or more.")
            )
        return options.having(num_classes=given or classes)

    def _opened(self, options: DataOptions, name: str) -> Any:
        from lightning_modules.data.timm_sources import open_split

        if name not in self._scanned:
            part = open_split(options, name)
            if name != "train" and part.names != self._opened(options, "train").names:
                raise ConvzooError(f"{name} and train of {options.source} have different classes.")
            self._scanned[name] = part
        return self._scanned[name]

    def _split(self, name: str) -> Any:
        return self._opened(self.options, name)

    @property
    def _splits(self) -> list[Any]:
        return [self._split(name) for name in ("train", "val", *(["test"] if self.options.test_split else []))]

    @property
    def _where(self) -> str:
        return f"data.source={self.options.source}"

    def look(self) -> None:
        sizes = [f"{name} {len(part):,}" for name, part in zip(("train", "val", "test"), self._splits, strict=False)]
        test = "" if self.options.test_split else "; test: val"
        log.info(f"{self.options.source}: {self.options.num_classes:,} classes; {', '.join(sizes)}{test}")

    def _images(self, part: Any, view: Any) -> Any:
        return part.images(view, self.options.num_classes, self.options.shuffle_buffer)

    def _batches(self, n: int, training: bool, kind: type[ShardedBatches] = EpochBatches) -> ShardedBatches:
        from lightning_modules.data.stream import StreamBatches
        from lightning_modules.data.timm_sources import STREAMS

        streamed = self.options.source.partition("/")[0] in STREAMS
        return super()._batches(n, training, StreamBatches if streamed else kind)

    def finish(
        self, images: torch.Tensor, labels: torch.Tensor, training: bool, dtype: torch.dtype
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if self.options.in_chans == 1:
            red, green, blue = images.int().unbind(1)
            grey = (GREY[0] * red + GREY[1] * green + GREY[2] * blue + 2**15) >> 16
            images = grey.to(torch.uint8)[:, None]
        return super().finish(images, labels, training, dtype)
