"""Read the file formats of CIFAR and MNIST; errors name the wrong file, and no file can execute code."""

from __future__ import annotations

import hashlib
import io
import pickle
import zlib
from pathlib import Path
from typing import Any, NoReturn

import numpy as np


class BadFile(Exception):
    """A file that is not what it should be; the message names the file and what is wrong with it."""


class _Array:
    """Stands in for a pickle's array of bytes: takes only its content, and never runs numpy's own unpickling."""

    def __init__(self, *_: Any) -> None:
        self.value: np.ndarray | None = None

    def __setstate__(self, state: Any) -> None:
        _, shape, kind, by_column, content = state
        if kind.name != "u1" or by_column:
            raise ValueError("its pixels are not bytes")
        # Pickles of Python 2 hold bytes as text.
        content = content.encode("latin1") if isinstance(content, str) else content
        self.value = np.frombuffer(content, np.uint8).reshape(shape)


class _Kind:
    """Stands in for a pickle's dtype: keeps its name."""

    def __init__(self, name: str, *_: Any) -> None:
        self.name = name

    def __setstate__(self, state: Any) -> None:
        pass


class _Unpickler(pickle.Unpickler):
    """Unpickles plain values and arrays of bytes, and rejects the rest: a pickle may name any function to be called."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in (("numpy.core.multiarray", "_reconstruct"), ("numpy._core.multiarray", "_reconstruct")):
            return _Array
        if module == "numpy" and name in ("ndarray", "dtype"):
            return _Array if name == "ndarray" else _Kind
        raise BadFile(f"it asks for {module}.{name}, which pictures do not need. Do not trust where it comes from")

    def persistent_load(self, pid: Any) -> NoReturn:
        raise BadFile("it refers to something outside of it")


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
        raise BadFile(f"{path} ({len(content):,} bytes) is not the published file, or not all of it: MD5 {found}")
    try:
        batch = _Unpickler(io.BytesIO(content), encoding="latin1").load()
        images, labels = batch["data"].value, batch[label_key]
        _check_labels(labels, len(images), classes)
        return images.reshape(len(images), 3, 32, 32), np.asarray(labels, np.int64)
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
        _check_labels(numbers.tolist(), len(pixels), classes)
    except BadFile as error:
        raise BadFile(f"{labels[0]}: {error}") from None
    return pixels[:, None].copy(), numbers.astype(np.int64)


def _read_idx(path: Path, content: bytes, dimensions: int) -> np.ndarray:
    """Read an IDX file (http://yann.lecun.com/exdb/mnist) as a uint8 array with this number of dimensions."""
    start = 4 + 4 * dimensions
    if content[:4] != bytes([0, 0, 8, dimensions]):
        raise BadFile(f"{path} is no IDX file of bytes in {dimensions} dimensions")
    shape = tuple(int.from_bytes(content[i : i + 4], "big") for i in range(4, start, 4))
    size = start + int(np.prod(shape, dtype=object))
    if len(content) != size:
        raise BadFile(f"{path} has {len(content):,} bytes and should have {size:,}: it is cut off or damaged")
    packed = path.with_name(path.name + ".gz")
    if packed.exists():
        # The archive that it was unpacked from ends with its checksum; nothing else would reveal a flipped bit.
        end = zlib.crc32(content).to_bytes(4, "little") + len(content).to_bytes(4, "little")
        if packed.read_bytes()[-8:] != end:
            raise BadFile(f"{path} is not what is in {packed.name}: one of them is damaged")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def _check_labels(labels: Any, images: int, classes: int) -> None:
    if len(labels) != images or not images:
        raise BadFile(f"there are {images:,} images and {len(labels):,} labels")
    if not all(type(label) is int and 0 <= label < classes for label in labels):
        raise BadFile(f"there are labels that are not from 0 to {classes - 1}")
