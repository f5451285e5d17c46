"""Built-in data sets that fit in memory, with fixed splits."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from lightning_modules.config.schema import DataOptions
from lightning_modules.data.formats import read_cifar, read_mnist
from lightning_modules.data.memory import Images, Splits
from lightning_modules.data.published import Files, read_published
from lightning_modules.data.registry import dataset
from lightning_modules.data.subset import SPLIT_SEED, hold_out

FASHION_FOLDERS = ("FashionMNIST/raw", "raw", "FashionMNIST", "fashion-mnist", "fashion_mnist", "data/fashion")
"""Folders used by torchvision (first), distributions and Zalando's repository."""


@dataset("digits", needs_root=False)
def digits(options: DataOptions) -> Splits:
    """Read the optical recognition of handwritten digits (Alpaydin & Kaynak 1998), as scikit-learn ships it."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    scans = torch.tensor(bunch.images, dtype=torch.float32)[:, None] / 16  # 17 grey levels: 0 to 16
    images = (F.interpolate(scans, options.image_size, mode="bilinear") * 255).round().to(torch.uint8)
    train, rest = _hold_out(Images(images, torch.tensor(bunch.target)), 540)
    val, test = _hold_out(rest, 270)
    if options.val_share is None:
        return Splits(train, val, test)
    return _with_validation(options, (Images(*map(torch.cat, zip(train, val, strict=True))), test))


@dataset("synthetic", needs_root=False)
def synthetic(options: DataOptions) -> Splits:
    """Generate noise with random labels, for measuring speed rather than accuracy."""
    generator = torch.Generator().manual_seed(SPLIT_SEED)
    n, small = options.images, max(1, options.images // 8)
    shape = (options.in_chans, *options.image_size)

    def noise(count: int) -> Images:
        images = torch.randint(0, 256, (count, *shape), dtype=torch.uint8, generator=generator)
        return Images(images, torch.randint(0, options.num_classes, (count,), generator=generator))

    return Splits(noise(n), noise(small), noise(small))


@dataset("cifar10")
def cifar10(options: DataOptions) -> Splits:
    """Read CIFAR-10 (Krizhevsky 2009): 45,000 train, 5,000 validation, 10,000 test."""
    from torchvision.datasets import CIFAR10

    return _cifar(options, CIFAR10, "labels", 10)


@dataset("cifar100")
def cifar100(options: DataOptions) -> Splits:
    """Read CIFAR-100 (Krizhevsky 2009): 45,000 train, 5,000 validation, 10,000 test."""
    from torchvision.datasets import CIFAR100

    return _cifar(options, CIFAR100, "fine_labels", 100)


@dataset("fashion_mnist")
def fashion_mnist(options: DataOptions) -> Splits:
    """Read Fashion-MNIST (Xiao et al. 2017): 55,000 train, 5,000 validation, 10,000 test."""
    from torchvision.datasets import FashionMNIST

    def read(files: Files, train: bool) -> tuple[np.ndarray, np.ndarray]:
        prefix = "train" if train else "t10k"
        return read_mnist(*(files.read(f"{prefix}-{kind}-ubyte") for kind in ("images-idx3", "labels-idx1")), 10)

    archives = {f"FashionMNIST/raw/{file}": md5 for file, md5 in FashionMNIST.resources}
    return _with_validation(
        options, read_published(options, FashionMNIST, read, FASHION_FOLDERS, "FashionMNIST", archives)
    )


def _cifar(options: DataOptions, kind: Any, label_key: str, classes: int) -> Splits:
    def read(files: Files, train: bool) -> tuple[np.ndarray, np.ndarray]:
        names = kind.train_list if train else kind.test_list
        parts = [read_cifar(*files.read(file), md5, label_key, classes) for file, md5 in names]
        images, labels = zip(*parts, strict=True)
        return np.concatenate(images), np.concatenate(labels)

    name, base = kind.__name__, kind.base_folder
    folders = (base, f"{name}/{base}", f"{name.lower()}/{base}", name, name.lower())
    return _with_validation(options, read_published(options, kind, read, folders, base, {kind.filename: kind.tgz_md5}))


def _with_validation(options: DataOptions, published: tuple[Images, Images]) -> Splits:
    """Hold out ``data.val_share`` for validation, or else 5,000 training images (a fifth of them if that is fewer)."""
    everything, test = published
    if options.val_share is None:
        train, val = _hold_out(everything, min(5000, len(everything.labels) // 5))
    else:
        train, val = map(everything.at, hold_out(everything.labels.tolist(), options.val_share))
    return Splits(train, val, test)


def _hold_out(images: Images, n: int) -> tuple[Images, Images]:
    """Hold out ``n`` images, stratified if there are enough for all classes; return (the rest, those held out)."""
    from sklearn.model_selection import train_test_split

    labels = images.labels.numpy()
    stratify = labels if n >= len(set(labels.tolist())) else None
    parts = train_test_split(range(len(labels)), test_size=n, stratify=stratify, random_state=SPLIT_SEED)
    rest, held_out = map(images.at, parts)
    return rest, held_out
