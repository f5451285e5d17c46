"""The file formats of CIFAR and MNIST, read so that a wrong file is named and no file can run anything."""

from __future__ import annotations

import hashlib
import io
import pickle
import zlib
from pathlib import Path
from typing import Any, NoReturn

import numpy as np


class BadFile(Exception):
    """A file that is not what it should be; the text names it and says in which way."""


class _Array:
    """What a pickle's array of bytes becomes: only its content, never numpy's own unpickling."""

    def __init__(self, *_: Any) -> None:
        self.value: np.ndarray | None = None

    def __setstate__(self, state: Any) -> None:
        _, shape, kind, by_column, content = state
        if kind.name != "u1" or by_column:
            raise ValueError("its pixels are not bytes")
        # Python 2's pickles have bytes as text.
        content = content.encode("latin1") if isinstance(content, str) else content
        self.value = np.frombuffer(content, np.uint8).reshape(shape)


class _Kind:
    """What a pickle's dtype becomes: its name."""

    def __init__(self, name: str, *_: Any) -> None:
        self.name = name

    def __setstate__(self, state: Any) -> None:
        pass


class _Unpickler(pickle.Unpickler):
    """Plain values and arrays of bytes; anything else is refused, for a pickle may name any function to be called."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in (("numpy.core.multiarray", "_reconstruct"), ("numpy._core.multiarray", "_reconstruct")):
            return _Array
        if module == "numpy" and name in ("ndarray", "dtype"):
            return _Array if name == "ndarray" else _Kind
        raise BadFile(f"it asks for {module}.{name}, which pictures do not need. Do not trust where it comes from")

    def persistent_load(self, pid: Any) -> NoReturn:
        raise BadFile("it refers to something outside of it")


def read_cifar(path: Path, content: bytes, md5: str, label_key: str, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """One file of CIFAR's Python version.

    Args:
        path: Where its content was, for messages.
        md5: Of the published file.
        label_key: Under which the labels are.

    Returns:
        uint8 (N, 3, 32, 32) and int64 (N,).

    Raises:
        BadFile: It is another file than the published one, cut off, has another shape, labels out of range, or code.
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
    except Exception as error:  # whatever damaged bytes make the unpickler do
        raise BadFile(f"{path} is damaged ({type(error).__name__}: {error})") from None


def read_mnist(images: tuple[Path, bytes], labels: tuple[Path, bytes], classes: int) -> tuple[np.ndarray, np.ndarray]:
    """A pair of files in MNIST's format, each with the path that it was at.

    Returns:
        uint8 (N, 1, 28, 28) and int64 (N,).

    Raises:
        BadFile: One is cut off or another kind of file, or they do not belong together.
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
    """Bytes in the format of http://yann.lecun.com/exdb/mnist: uint8 in so many dimensions."""
    start = 4 + 4 * dimensions
    if content[:4] != bytes([0, 0, 8, dimensions]):
        raise BadFile(f"{path} is no IDX file of bytes in {dimensions} dimensions")
    shape = tuple(int.from_bytes(content[i : i + 4], "big") for i in range(4, start, 4))
    size = start + int(np.prod(shape, dtype=object))
    if len(content) != size:
        raise BadFile(f"{path} has {len(content):,} bytes and should have {size:,}: it is cut off or damaged")
    packed = path.with_name(path.name + ".gz")
    if packed.exists():
        # The archive that it was unpacked from ends with its checksum: a flipped bit would not show otherwise.
        end = zlib.crc32(content).to_bytes(4, "little") + len(content).to_bytes(4, "little")
        if packed.read_bytes()[-8:] != end:
            raise BadFile(f"{path} is not what is in {packed.name}: one of them is damaged")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def _check_labels(labels: Any, images: int, classes: int) -> None:
    if len(labels) != images or not images:
        raise BadFile(f"there are {images:,} images and {len(labels):,} labels")
    if not all(type(label) is int and 0 <= label < classes for label in labels):
        raise BadFile(f"there are labels that are not from 0 to {classes - 1}")
