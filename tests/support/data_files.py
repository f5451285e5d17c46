"""Writes small data sets in their real file formats."""

import gzip
import hashlib
import pickle
import struct

import numpy as np
import pytest
from PIL import Image


def md5(path):
    return hashlib.md5(path.read_bytes()).hexdigest()


@pytest.fixture
def publish(monkeypatch):
    """Makes files in CIFAR's format here the published ones, whose checksums torchvision knows."""

    def these(kind, folder):
        for split in ("train_list", "test_list"):
            files = [[name, md5(folder / name)] for name, _ in getattr(kind, split)]
            monkeypatch.setattr(kind, split, files)

    return these


def write_cifar(root, name, files, label_key, classes):
    folder = root / name
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for file, n in files.items():
        content = {
            "data": rng.integers(0, 256, (n, 3072), dtype=np.uint8),
            label_key: [i % classes for i in range(n)],
        }
        (folder / file).write_bytes(pickle.dumps(content))
    meta = {"fine_label_names": ["x"] * classes, "label_names": ["x"] * classes}
    (folder / ("meta" if classes == 100 else "batches.meta")).write_bytes(pickle.dumps(meta))


def write_idx(path, array):
    header = struct.pack(">I", 0x0800 + array.ndim) + b"".join(struct.pack(">I", n) for n in array.shape)
    path.write_bytes(header + array.tobytes())


TEN = {f"data_batch_{i}": 20 for i in range(1, 6)} | {"test_batch": 15}


def write_fashion(root, packed=False):
    raw = root / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for name, n in (("train", 40), ("t10k", 9)):
        pixels = np.arange(n * 784, dtype=np.uint64).astype(np.uint8).reshape(n, 28, 28)
        labels = (np.arange(n) % 10).astype(np.uint8)
        for kind, array in ((f"{name}-images-idx3-ubyte", pixels), (f"{name}-labels-idx1-ubyte", labels)):
            write_idx(raw / kind, array)
            if packed:
                (raw / f"{kind}.gz").write_bytes(gzip.compress((raw / kind).read_bytes()))
    return raw


def make_folder(root, splits=("train", "val"), classes=("ant", "bee"), n=5):
    for split in splits:
        for i, name in enumerate(classes):
            folder = root / split / name
            folder.mkdir(parents=True)
            for j in range(n):
                Image.new("RGB", (40 + 10 * j, 30), (40 * i, 10 * j, 0)).save(folder / f"{j}.jpg")
