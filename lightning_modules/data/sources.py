"""Read the data sets that fit in memory into uint8 tensors, with fixed splits."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from lightning_modules.config.schema import DataOptions
from lightning_modules.data.formats import BadFile, read_cifar, read_mnist
from lightning_modules.data.places import Files
from zoo.errors import ConvzooError


class Images(NamedTuple):
    """Images, uint8 (N, C, H, W), and labels, int64 (N,)."""

    images: torch.Tensor
    labels: torch.Tensor

    def take(self, indices: list[int]) -> Images:
        return Images(self.images[indices], self.labels[indices])


class Splits(NamedTuple):
    train: Images
    val: Images
    test: Images


MNIST_KINDS = ("images-idx3", "labels-idx1")
FASHION_FOLDERS = ("FashionMNIST/raw", "raw", "FashionMNIST", "fashion-mnist", "fashion_mnist", "data/fashion")
"""Folders used by torchvision (first), distributions and Zalando's repository."""

SPLIT_SEED = 0
"""Seed of all splits: a split is part of the data set and does not depend on a run's seed."""


def digits(options: DataOptions) -> Splits:
    """Read the optical recognition of handwritten digits (Alpaydin & Kaynak 1998), as scikit-learn ships it."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    scans = torch.tensor(bunch.images, dtype=torch.float32)[:, None] / 16  # 17 grey levels: 0 to 16
    images = (F.interpolate(scans, options.image_size, mode="bilinear") * 255).round().to(torch.uint8)
    everything = Images(images, torch.tensor(bunch.target))
    train, rest = _split(everything, 540)
    return Splits(train, *_split(rest, 270))


def cifar10(options: DataOptions) -> Splits:
    """Read CIFAR-10 (Krizhevsky 2009): 45,000 train, 5,000 validation, 10,000 test."""
    return _cifar("CIFAR10", "labels", 10, options)


def cifar100(options: DataOptions) -> Splits:
    """Read CIFAR-100 (Krizhevsky 2009): 45,000 train, 5,000 validation, 10,000 test."""
    return _cifar("CIFAR100", "fine_labels", 100, options)


def fashion_mnist(options: DataOptions) -> Splits:
    """Read Fashion-MNIST (Xiao et al. 2017): 55,000 train, 5,000 validation, 10,000 test."""
    from torchvision.datasets import FashionMNIST

    def read(files: Files, train: bool) -> tuple[np.ndarray, np.ndarray]:
        images, labels = (files.read(f"{'train' if train else 't10k'}-{kind}-ubyte") for kind in MNIST_KINDS)
        return read_mnist(images, labels, 10)

    archives = {f"FashionMNIST/raw/{file}": md5 for file, md5 in FashionMNIST.resources}
    return _published(options, read, FashionMNIST, "FashionMNIST", archives, FASHION_FOLDERS)


def synthetic(options: DataOptions) -> Splits:
    """Generate noise with random labels, for measuring speed rather than accuracy."""
    generator = torch.Generator().manual_seed(SPLIT_SEED)
    n, small = options.images, max(1, options.images // 8)
    shape = (options.in_chans, options.image_size, options.image_size)

    def noise(count: int) -> Images:
        images = torch.randint(0, 256, (count, *shape), dtype=torch.uint8, generator=generator)
        return Images(images, torch.randint(0, options.num_classes, (count,), generator=generator))

    return Splits(noise(n), noise(small), noise(small))


SOURCES = {f.__name__: f for f in (digits, cifar10, cifar100, fashion_mnist, synthetic)}
WITHOUT_FILES = ("digits", "synthetic")
"""Data sets that need no folder."""


def _cifar(name: str, label_key: str, classes: int, options: DataOptions) -> Splits:
    from torchvision import datasets

    kind = getattr(datasets, name)

    def read(files: Files, train: bool) -> tuple[np.ndarray, np.ndarray]:
        names = kind.train_list if train else kind.test_list
        parts = [read_cifar(*files.read(file), md5, label_key, classes) for file, md5 in names]
        images, labels = zip(*parts, strict=True)
        return np.concatenate(images), np.concatenate(labels)

    folders = [kind.base_folder, f"{name}/{kind.base_folder}", f"{name.lower()}/{kind.base_folder}", name, name.lower()]
    return _published(options, read, kind, kind.base_folder, {kind.filename: kind.tgz_md5}, folders)


def _published(
    options: DataOptions,
    read: Callable[[Files, bool], tuple[np.ndarray, np.ndarray]],
    kind: type,
    folder: str,
    archives: dict[str, str],
    folders: Sequence[str],
    validation: int = 5000,
) -> Splits:
    """Read a data set that torchvision can download; download it if needed and ``data.download`` is set.

    Args:
        options: The data group of the configuration.
        read: (files of the data set, whether to read the training set) → images and labels.
        kind, folder, archives: See `lightning_modules.data.download.fetch`.
        folders: See `lightning_modules.data.places.Files`.
        validation: Number of images to hold out from the training set; at most a fifth of it.

    Raises:
        ConvzooError: The data set is missing or incomplete, or could not be downloaded.
    """
    root, name = Path(os.path.expanduser(options.root)), kind.__name__

    def attempt() -> list[Images] | str:
        files = Files(root, folders, [tar for name in archives if ".tar" in name for tar in (name, name[:-3])])
        try:
            return [Images(*map(torch.from_numpy, read(files, train))) for train in (True, False)]
        except FileNotFoundError as error:
            return f"{error.filename} is missing"
        except OSError as error:
            return f"{error.filename} cannot be read: {error.strerror}"
        except BadFile as error:
            return str(error)

    found = attempt()
    if isinstance(found, str) and options.download:
        from lightning_modules.data.download import fetch, one_at_a_time

        with one_at_a_time(root, name):
            found = attempt()  # another process may have downloaded it meanwhile
            if isinstance(found, str):
                fetch(kind, folder, archives, root)
                found = attempt()
    if isinstance(found, str):
        raise ConvzooError(
            f"{name} is not there, or not whole, in {root}: {found}. Type data.download=true to fetch it (what is "
            "there of it is replaced), or data.root=FOLDER if you have it elsewhere: the folder that its files lie in, "
            "packed as they are published or not."
        )
    train, test = found
    rest, validation_set = _split(train, min(validation, len(train.labels) // 5))
    return Splits(rest, validation_set, test)


def _split(images: Images, n: int) -> tuple[Images, Images]:
    """Hold out ``n`` images, stratified if there are enough for all classes; return (the rest, those held out)."""
    from sklearn.model_selection import train_test_split

    labels = images.labels.numpy()
    stratify = labels if n >= len(set(labels.tolist())) else None
    rest, held_out = train_test_split(range(len(labels)), test_size=n, stratify=stratify, random_state=SPLIT_SEED)
    return images.take(rest), images.take(held_out)
