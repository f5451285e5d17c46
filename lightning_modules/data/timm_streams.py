"""The streams that timm opens: data sets of Hugging Face, and WebDataset's tar files."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from zoo.errors import ConvzooError

IMAGES = "jpg;jpeg;png;webp"
"""Endings of the images in WebDataset's shards."""


def whole(label: Any) -> int:
    """Return a label as int."""
    if isinstance(label, (bool, str, float)) or label is None:
        raise ValueError(f"the label {label!r} is no whole number")
    return int(label)


class HuggingFaceStream:
    """A data set of Hugging Face that is read as a stream, through timm's reader."""

    def __init__(self, source: str, reader: Any) -> None:
        import datasets

        self.source, self.image, self.label = source, reader.input_key, reader.target_key
        self._rows = reader.builder.as_streaming_dataset(split=reader.split)
        columns = self._rows.features or {self.image: None, self.label: None}
        for key in (self.image, self.label):
            if key not in columns:
                raise ValueError(f"it has no column {key}, but {', '.join(columns)}")
        self.names = tuple(getattr(columns[self.label], "names", ()))
        self._images = self._rows.cast_column(self.image, datasets.Image(decode=False))
        self.shards = self._rows.num_shards

    def name(self, shard: int) -> str:
        return f"{self.source}, shard {shard}"

    def labels(self) -> Iterator[int]:
        for batch in self._rows.select_columns([self.label]).iter(1000):
            yield from map(whole, batch[self.label])

    def read(self, shard: int) -> Iterator[tuple[bytes, int]]:
        # In batches, since iterating over single rows would skip the shards of other worker processes.
        for batch in self._images.shard(self.shards, shard).iter(16):
            for image, label in zip(batch[self.image], batch[self.label], strict=True):
                yield image["bytes"] or Path(image["path"]).read_bytes(), whole(label)


class WebDatasetStream:
    """Tar files in which ``NAME.jpg`` and ``NAME.cls`` (or ``NAME.json``) follow each other."""

    def __init__(self, source: str, files: Sequence[str], image: str, label: str) -> None:
        self.source, self.files, self.image, self.label = source, files, image.split(";"), label
        self.shards = len(files)

    def name(self, shard: int) -> str:
        return self.files[shard]

    def labels(self) -> Iterator[int]:
        for file in self.files:
            for sample in self._samples(file, select_files=lambda name: name.endswith((".cls", ".json"))):
                yield self._label(file, sample)

    def read(self, shard: int) -> Iterator[tuple[bytes, int]]:
        file = self.files[shard]
        for sample in self._samples(file):
            image = next((sample[key] for key in self.image if key in sample), None)
            if image is None:
                raise ConvzooError(f"{file}: {_keys_of(sample)}, no {', '.join(self.image)}. Type data.input_key=KEY.")
            yield image, self._label(file, sample)

    def _samples(self, file: str, **options: Any) -> Iterator[dict[str, Any]]:
        import webdataset as wds

        try:
            yield from wds.DataPipeline(wds.SimpleShardList([file]), wds.tarfile_to_samples(**options))
        except (tarfile.TarError, OSError, EOFError) as error:
            raise ConvzooError(f"{file} is damaged: {error}. Restore it, or leave it out of the split.") from None

    def _label(self, file: str, sample: dict[str, Any]) -> int:
        try:
            return whole(json.loads(sample["json"])[self.label]) if self.label else int(sample["cls"])
        except (KeyError, ValueError):
            where = f"{self.label} in its .json file" if self.label else "its .cls file"
            raise ConvzooError(
                f"{file}: {_keys_of(sample)}, no label in {where}. Type data.target_key=KEY, a key of the .json files."
            ) from None


def _keys_of(sample: Iterable[str]) -> str:
    return "the sample has " + ", ".join(key for key in sample if not key.startswith("__"))
