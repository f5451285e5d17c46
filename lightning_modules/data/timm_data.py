"""``data=timm``: data sets of `timm.data.create_dataset`, listed or streamed."""

from __future__ import annotations

from typing import Any

from lightning_modules.config.schema import DataOptions
from lightning_modules.data.batches import EpochBatches, ShardedBatches
from lightning_modules.data.file_data import FileData
from lightning_modules.data.registry import dataset
from lightning_modules.data.split import SPLITS
from zoo.errors import ConvzooError
from zoo.log import log


@dataset("timm", needs_root=False)
class TimmData(FileData):
    """Data module of a data set that timm opens: images decoded by worker processes, like those of folders.

    Raises:
        ConvzooError: The data set cannot be read, or does not match the configuration.
    """

    def __init__(self, options: DataOptions, seed: int = 0) -> None:
        from lightning_modules.data.timm_sources import open_split

        if options.in_chans not in (1, 3):
            raise ConvzooError(f"data.in_chans={options.in_chans} is not allowed with data=timm. Allowed: 1, 3.")
        self._train = open_split(options, "train")
        names = self._train.names or tuple(map(str, range(options.num_classes or self._train.classes)))
        super().__init__(options, seed, names, f"data.source={options.source}")

    def _read(self) -> list[Any]:
        from lightning_modules.data.timm_sources import open_split

        others = [open_split(self.options, name) for name in ("val", *(["test"] if self.options.test_split else []))]
        for part in others:
            if part.names != self._train.names:
                raise ConvzooError(f"the splits of {self.where} have different classes.")
        return [self._train, *others]

    def look(self) -> None:
        sizes = [f"{name} {len(part):,}" for name, part in zip(SPLITS, self.splits, strict=False)]
        test = "" if self.options.test_split else "; test: val"
        log.info(f"{self.where}: {len(self.classes):,} classes; {', '.join(sizes)}{test}")

    def _images(self, split: Any, view: Any) -> Any:
        return split.images(view, len(self.classes), self.options.shuffle_buffer)

    def _batches(self, n: int, training: bool, kind: type[ShardedBatches] = EpochBatches) -> ShardedBatches:
        return super()._batches(n, training, self._train.batches)
