"""Read the file formats of CIFAR and MNIST; errors name the wrong file, and no file can execute code."""

from __future__ import annotations

import hashlib
import io
import pickle
import zlib
from pathlib import Path
from typing import Any

import numpy as np

ARRAYS = {
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
}
"""What a pickled array refers to, before and since numpy 2."""


class BadFile(Exception):
    """A file that is not what it should be; the message names the file and what is wrong with it."""


class _Unpickler(pickle.Unpickler):
    """Unpickles plain values and arrays, and rejects the rest: a pickle may name any function to be called."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ARRAYS:
            raise BadFile(f"it refers to {module}.{name}, which images do not need. Do not trust its source")
        return super().find_class(module, name)


def read_cifar(path: Path, content: bytes, md5: str, label_key: str, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Read one file of CIFAR's Python version.

    Args:
        path: Path of the content, for messages.
        content: The file's content.
        md5: MD5 of the published file.
        label_key: Key of the labels in the pickle.
        classes: Number of classes.

    Returns:
        Images, uint8 (N, 3, 32, 32), and labels, int64 (N,).

    Raises:
        BadFile: The file is not the published one, is truncated, has another shape, has labels out of range, or
            contains code.
    """
    if (found := hashlib.md5(content, usedforsecurity=False).hexdigest()) != md5:
        raise BadFile(f"{path} ({len(content):,} bytes) is not the published file, or incomplete: MD5 {found}")
    try:
        # Pickles of Python 2 hold bytes as text.
        batch = _Unpickler(io.BytesIO(content), encoding="latin1").load()
        images = batch["data"]
        if images.dtype != np.uint8:
            raise BadFile(f"its pixels are not bytes but {images.dtype}")
        return images.reshape(len(images), 3, 32, 32), _checked(batch[label_key], len(images), classes)
    except BadFile as error:
        raise BadFile(f"{path}: {error}") from None
    except Exception as error:  # damaged bytes can make the unpickler raise anything
        raise BadFile(f"{path} is damaged ({type(error).__name__}: {error})") from None


def read_mnist(images: tuple[Path, bytes], labels: tuple[Path, bytes], classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Read a pair of files in MNIST's format.

    Args:
        images: Path and content of the file of images.
        labels: Path and content of the file of labels.
        classes: Number of classes.

    Returns:
        Images, uint8 (N, 1, 28, 28), and labels, int64 (N,).

    Raises:
        BadFile: A file is truncated or of another kind, or the two do not match.
    """
    pixels, numbers = _read_idx(*images, 3), _read_idx(*labels, 1)
    if pixels.shape[1:] != (28, 28):
        raise BadFile(f"{images[0]} has images of {pixels.shape[1]}×{pixels.shape[2]} pixels, not 28×28")
    try:
        return pixels[:, None].copy(), _checked(numbers, len(pixels), classes)
    except BadFile as error:
        raise BadFile(f"{labels[0]}: {error}") from None


def _read_idx(path: Path, content: bytes, dimensions: int) -> np.ndarray:
    """Read an IDX file (http://yann.lecun.com/exdb/mnist) as a uint8 array with this number of dimensions."""
    start = 4 + 4 * dimensions
    if content[:4] != bytes([0, 0, 8, dimensions]):
        raise BadFile(f"{path} is not an IDX file of bytes in {dimensions} dimensions")
    shape = tuple(int.from_bytes(content[i : i + 4], "big") for i in range(4, start, 4))
    size = start + int(np.prod(shape, dtype=object))
    if len(content) != size:
        raise BadFile(f"{path} has {len(content):,} bytes instead of {size:,}: it is cut off or damaged")
    packed = path.with_name(path.name + ".gz")
    if packed.exists():
        # The archive that it was unpacked from ends with its checksum; nothing else would reveal a flipped bit.
        end = zlib.crc32(content).to_bytes(4, "little") + len(content).to_bytes(4, "little")
        if packed.read_bytes()[-8:] != end:
            raise BadFile(f"{path} differs from the content of {packed.name}: one of them is damaged")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def _checked(labels: Any, images: int, classes: int) -> np.ndarray:
    """Return the labels as int64; one for each image, from 0 to ``classes - 1``."""
    labels = np.asarray(labels)
    if labels.shape != (images,) or not images:
        raise BadFile(f"it has {images:,} images and {labels.size:,} labels")
    if labels.dtype.kind not in "iu" or labels.min() < 0 or labels.max() >= classes:
        raise BadFile(f"it has labels that are not from 0 to {classes - 1}")
    return labels.astype(np.int64)
