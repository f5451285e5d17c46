"""Open a split of a data set with `timm.data.create_dataset`: listed images, or a stream."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lightning_modules.config.schema import DataOptions
from lightning_modules.data.folder import FolderImages
from lightning_modules.data.timm_splits import Contents, Listed, Pictures, Streamed
from lightning_modules.data.timm_streams import IMAGES, HuggingFaceStream, WebDatasetStream, whole
from zoo.errors import ConvzooError, choose, need_packages

NEEDS = {"hfds": "datasets", "hfids": "datasets", "wds": "webdataset", "torch": "torchvision", "folder": "timm"}
"""The kinds of ``data.source``, and the package that each needs."""
TRAIN_AND_TEST = ("cifar10", "cifar100", "mnist", "kmnist", "fashion_mnist")
"""Data sets of torchvision that have no validation images; timm takes any split but train as the test images."""
FAULTS = (OSError, ValueError, RuntimeError, KeyError, TypeError, AttributeError, AssertionError)
"""What the libraries raise for a data set, split or column that does not exist, or cannot be read."""


def open_split(options: DataOptions, name: str) -> Listed | Streamed:
    """Open a split.

    Args:
        options: The data group.
        name: ``train``, ``val`` or ``test``.

    Raises:
        ConvzooError: The source is unknown, a package is missing, or the split cannot be read.
    """
    kind, _, dataset = options.source.partition("/")
    split, what = getattr(options, f"{name}_split"), f"data.source={options.source}"
    if kind == "tfds":
        raise ConvzooError(
            f"{what} is not read: it needs TensorFlow. Most of these data sets are on Hugging Face: type "
            "data.source=hfds/NAME."
        )
    package = NEEDS[choose("data.source", kind, NEEDS)]
    need_packages("streams", package)
    if kind in ("wds", "torch", "folder") and options.root is None:
        raise ConvzooError(f"{what} is read from a folder. Type data.root=FOLDER.")
    if kind == "torch" and dataset in TRAIN_AND_TEST and (name, split) == ("val", "validation"):
        raise ConvzooError(
            f"{what} has train and test images only. Type data.val_split=test to validate with the test images"
            f"{f', or data={dataset}, which holds out training images' if dataset not in ('mnist', 'kmnist') else ''}."
        )
    try:
        found = _OPEN[kind](options, split)
        if not len(found):
            raise ValueError("it has no images")
        return found
    except (*FAULTS, *_faults_of(package)) as error:
        error = error.__cause__ or error
        said = " ".join(str(error).split())[:300] or type(error).__name__
        raise ConvzooError(
            f"{what} data.{name}_split={split} cannot be read: {said}. Type data.{name}_split=SPLIT for another split, "
            "data.input_key=KEY and data.target_key=KEY for other columns of images and labels."
        ) from None


def _faults_of(package: str) -> tuple[type[Exception], ...]:
    if package != "datasets":
        return ()
    from datasets.exceptions import DatasetsError

    return (DatasetsError,)


def _create(options: DataOptions, split: str, **more: Any) -> Any:
    from timm.data import create_dataset

    name = options.source if "/" in options.source else f"{options.source}/"
    return create_dataset(
        name if name != "folder/" else "", options.root, split=split, download=options.download, **more
    )


def _keys(options: DataOptions) -> dict[str, str | None]:
    return {"input_key": options.input_key, "target_key": options.target_key}


def _hfds(options: DataOptions, split: str) -> Listed:
    reader = _create(options, split, **_keys(options)).reader
    if reader.dataset[0][reader.image_key] is None:  # timm adds a column that is not there, as an empty one
        raise ValueError(f"{reader.image_key} is empty; the columns are {', '.join(reader.dataset.column_names)}")
    labels = [whole(label) for label in reader.iter_targets()]
    return Listed(labels, tuple(reader.class_to_idx), lambda view: Contents(reader, labels, split, view))


def _torch(options: DataOptions, split: str) -> Listed:
    dataset = _create(options, split)
    labels = [whole(label) for label in dataset.targets]
    return Listed(labels, tuple(dataset.classes), lambda view: Pictures(dataset, labels, split, view))


def _folder(options: DataOptions, split: str) -> Listed:
    reader = _create(options, split).reader
    if Path(reader.root) == Path(options.root):
        raise ValueError(f"{options.root} has no folder {split}")
    labels = [label for _, label in reader.samples]
    return Listed(labels, tuple(reader.class_to_idx), lambda view: FolderImages(reader.samples, *view))


def _hfids(options: DataOptions, split: str) -> Streamed:
    # Without a number timm refuses; where the files do not tell it, the images are counted.
    reader = _create(options, split, num_samples=1, **_keys(options)).reader
    stream = HuggingFaceStream(f"{options.source} {split}", reader)
    infos = reader.builder.info.splits or {}
    return Streamed(stream, infos[split].num_examples or 0 if split in infos else 0, stream.names)


def _wds(options: DataOptions, split: str) -> Streamed:
    logging.getLogger("timm.data.readers.reader_wds").setLevel(logging.ERROR)  # warns about every optional _info.json
    info = _create(options, split).reader.split_info
    files = [os.path.join(options.root, name) for name in info.filenames]
    if missing := [file for file in files if ":" not in file and not os.path.isfile(file)]:
        raise ValueError(f"{missing[0]} is missing")
    stream = WebDatasetStream(
        f"{options.source} {split}", files, options.input_key or IMAGES, options.target_key or info.alt_label
    )
    return Streamed(stream, info.num_samples, ())


_OPEN: dict[str, Callable[[DataOptions, str], Listed | Streamed]] = {
    "hfds": _hfds,
    "hfids": _hfids,
    "wds": _wds,
    "torch": _torch,
    "folder": _folder,
}
