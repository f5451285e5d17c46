"""The data sets that fit in memory: each is read into uint8 tensors, with a fixed split."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F

from zoo.errors import ConvzooError


class Images(NamedTuple):
    """images: uint8 (N, C, H, W); labels: int64 (N,)."""

    images: torch.Tensor
    labels: torch.Tensor

    def take(self, indices: list[int]) -> Images:
        return Images(self.images[indices], self.labels[indices])


class Splits(NamedTuple):
    train: Images
    val: Images
    test: Images


SPLIT_SEED = 0
"""The split is part of the data set: it does not depend on a run's seed."""


def digits(data: dict[str, Any]) -> Splits:
    """Optical recognition of handwritten digits (Alpaydin & Kaynak 1998), as scikit-learn ships it."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    scans = torch.tensor(bunch.images, dtype=torch.float32)[:, None] / 16  # 17 grey levels: 0 to 16
    images = (F.interpolate(scans, data["image_size"], mode="bilinear") * 255).round().to(torch.uint8)
    everything = Images(images, torch.tensor(bunch.target))
    train, rest = _split(everything, 540)
    return Splits(train, *_split(rest, 270))


def cifar10(data: dict[str, Any]) -> Splits:
    """Krizhevsky 2009: 45,000 train, 5,000 validation, 10,000 test."""
    return _torchvision("CIFAR10", data, validation=5000)


def cifar100(data: dict[str, Any]) -> Splits:
    """Krizhevsky 2009: 45,000 train, 5,000 validation, 10,000 test."""
    return _torchvision("CIFAR100", data, validation=5000)


def fashion_mnist(data: dict[str, Any]) -> Splits:
    """Xiao et al. 2017: 55,000 train, 5,000 validation, 10,000 test."""
    return _torchvision("FashionMNIST", data, validation=5000)


def synthetic(data: dict[str, Any]) -> Splits:
    """Noise with random labels: for speed, not for accuracy."""
    generator = torch.Generator().manual_seed(SPLIT_SEED)
    n, small = data["images"], max(1, data["images"] // 8)
    shape = (data["in_chans"], data["image_size"], data["image_size"])

    def noise(count: int) -> Images:
        images = torch.randint(0, 256, (count, *shape), dtype=torch.uint8, generator=generator)
        return Images(images, torch.randint(0, data["num_classes"], (count,), generator=generator))

    return Splits(noise(n), noise(small), noise(small))


SOURCES = {f.__name__: f for f in (digits, cifar10, cifar100, fashion_mnist, synthetic)}


def _torchvision(name: str, data: dict[str, Any], validation: int) -> Splits:
    from torchvision import datasets

    make = getattr(datasets, name)
    try:
        train, test = (make(data["root"], train=train, download=data["download"]) for train in (True, False))
    except OSError as error:
        raise ConvzooError(f"{name} could not be downloaded to {data['root']}: {error}") from None
    except (RuntimeError, AssertionError, ValueError, EOFError) as error:
        where = "is not there, or not whole, in" if not data["download"] else "could not be downloaded to"
        raise ConvzooError(
            f"{name} {where} {data['root']}. Type data.download=true to fetch it, or data.root=FOLDER if you have it "
            f"elsewhere. ({error})"
        ) from None
    rest, validation_set = _split(_tensors(train), min(validation, len(train) // 5))
    return Splits(rest, validation_set, _tensors(test))


def _tensors(dataset: Any) -> Images:
    pixels = torch.as_tensor(dataset.data)
    images = pixels.permute(0, 3, 1, 2) if pixels.ndim == 4 else pixels[:, None]
    return Images(images, torch.as_tensor(dataset.targets).long())


def _split(images: Images, n: int) -> tuple[Images, Images]:
    """Holds out ``n`` images, stratified: (the rest, those held out)."""
    from sklearn.model_selection import train_test_split

    labels = images.labels.numpy()
    stratify = labels if n >= len(set(labels.tolist())) else None
    rest, held_out = train_test_split(range(len(labels)), test_size=n, stratify=stratify, random_state=SPLIT_SEED)
    return images.take(rest), images.take(held_out)
