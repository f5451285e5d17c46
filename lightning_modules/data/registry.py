"""The data sets by name, and `make_data`, which makes the data module of a configuration."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from lightning_modules.config.schema import DataOptions
from lightning_modules.data.base import Data
from lightning_modules.data.memory import ImageData, Reader
from zoo.errors import ConvzooError
from zoo.registry import Registry

DATASETS = Registry("data")

MISSING = "???"
"""Stands for a value that users must type; OmegaConf's, which this package does not import."""

Source = TypeVar("Source", bound=type[Data] | Reader)


def dataset(
    name: str,
    needs_root: bool = True,
    *,
    num_classes: int | None = None,
    in_chans: int = 3,
    image_size: int | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    batch_size: int = 32,
    epochs: int = 10,
    augment: Mapping[str, Any] | None = None,
) -> Callable[[Source], Source]:
    """Register a data set as ``data=NAME``.

    It decorates a function from the options to the data, `Splits` of arrays or of torch Datasets, or a
    LightningDataModule (`lightning_modules.data.sources`); or it decorates a subclass of `Data`.
    The other arguments are what ``data=NAME`` starts from; users type others as usual, ``data.epochs=5``. A file
    ``conf/data/NAME.yaml`` of the user's replaces them all.

    Args:
        name: The name.
        needs_root: Whether the data set is read from the folder ``data.root``.
        num_classes: Number of classes; None: users type it.
        in_chans: Number of channels.
        image_size: Side in pixels; None: the resolution that the network was published at.
        mean, std: Mean and standard deviation per channel, for images from 0 to 1; None: 0.5 each.
        batch_size: Images per batch.
        epochs: Number of epochs.
        augment: What of the augmentation is on, such as ``{"hflip": True}``.

    Raises:
        ConvzooError: The name is invalid or taken.
    """
    usual = {
        "name": name,
        "root": MISSING if needs_root else None,
        "download": False,
        "num_classes": MISSING if num_classes is None else num_classes,
        "in_chans": in_chans,
        "image_size": image_size,
        "batch_size": batch_size,
        "epochs": epochs,
        "mean": [0.5] * in_chans if mean is None else list(mean),
        "std": [0.5] * in_chans if std is None else list(std),
        "workers": None,
        "train_images": None,
        "augment": dict(augment or {}),
    }
    return DATASETS.register(name, options=(), needs_root=needs_root, usual=usual)


def make_data(options: DataOptions | Mapping[str, Any], seed: int = 0) -> Data:
    """Make the data module of a configuration.

    Args:
        options: The data group, or its plain values, with ``image_size`` resolved
            (`lightning_modules.config.scaling.image_sizes`). ``num_classes`` may be None for an image folder, whose
            class folders are counted.
        seed: Seed of the order of the training images.

    Raises:
        ConvzooError: The data set is unknown, its files are missing, or it does not match the configuration.
    """
    if not isinstance(options, DataOptions):
        options = DataOptions.of(options, "data")
    source = DATASETS[DATASETS.choose(options.name)]
    if options.root is None and source.traits["needs_root"]:
        raise ConvzooError(f"data.root=null: data={options.name} is read from a folder. Type data.root=FOLDER.")
    return source(options, seed) if isinstance(source.make, type) else ImageData(source.make, options, seed)
