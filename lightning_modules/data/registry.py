"""The data sets by name, and `make_data`, which makes the data module of a configuration."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from lightning_modules.config.schema import DataOptions
from lightning_modules.data.base import Data
from lightning_modules.data.memory import ImageData, Reader
from zoo.errors import ConvzooError
from zoo.registry import Registry

DATASETS = Registry("data")

Source = TypeVar("Source", bound=type[Data] | Reader)


def dataset(name: str, needs_root: bool = True) -> Callable[[Source], Source]:
    """Register a data set as ``data=NAME``.

    It decorates a function that reads the data set into memory, from its options to `Splits`, or a subclass of `Data`.

    Args:
        name: The name.
        needs_root: Whether the data set is read from the folder ``data.root``.

    Raises:
        ConvzooError: The name is invalid or taken.
    """
    return DATASETS.register(name, options=(), needs_root=needs_root)


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
