"""Read data sets that torchvision can download, in the layout of torchvision, the publisher or a distribution."""

from __future__ import annotations

import gzip
import os
import tarfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lightning_modules.config.schema import DataOptions
from lightning_modules.data.formats import BadFile
from lightning_modules.data.memory import Images
from zoo.errors import ConvzooError

DAMAGE = (EOFError, gzip.BadGzipFile, zlib.error, tarfile.TarError)


class Files:
    """Reads the files of one data set. Writes nothing, so a read-only folder works.

    Args:
        root: ``data.root``.
        folders: Possible folders of the files below ``root``, the usual one first. The root itself is searched last.
        archives: Names of tar archives that hold all the files.
    """

    def __init__(self, root: Path, folders: Sequence[str], archives: Sequence[str] = ()) -> None:
        self.root, self.folders, self.archives = root, folders, archives
        self._unpacked: dict[Path, dict[str, bytes]] = {}

    def read(self, name: str) -> tuple[Path, bytes]:
        """Return a file's path and content; a ``.gz`` or an archive is unpacked in memory.

        Raises:
            BadFile: The file is missing, cannot be read, or is packed and truncated or damaged.
        """
        for folder in (*self.folders, "."):
            for file in (name, f"{name}.gz", *self.archives):
                path = self.root / folder / file
                if path.is_file() and (content := self._content(path, name)) is not None:
                    return path, content
        raise BadFile(f"{self.root / self.folders[0] / name} is missing")

    def _content(self, path: Path, name: str) -> bytes | None:
        try:
            if path.name in self.archives:
                return self._unpack(path).get(name)
            content = path.read_bytes()
            if path.suffix != ".gz":
                return content
            if not content:
                raise EOFError
            return gzip.decompress(content)
        except DAMAGE as error:
            cut = isinstance(error, EOFError) or "unexpected end" in str(error)
            what = "cut off" if cut else f"damaged ({error})"
            raise BadFile(f"{path} ({path.stat().st_size:,} bytes) is {what}") from None
        except OSError as error:
            raise BadFile(f"{path} cannot be read: {error.strerror}") from None

    def _unpack(self, path: Path) -> dict[str, bytes]:
        """Return a tar archive's files by base name."""
        if path not in self._unpacked:
            with tarfile.open(path) as archive:
                files = [(member.name, archive.extractfile(member)) for member in archive if member.isfile()]
                self._unpacked[path] = {os.path.basename(name): file.read() for name, file in files if file}
        return self._unpacked[path]


def read_published(
    options: DataOptions,
    kind: Any,
    read: Callable[[Files, bool], tuple[np.ndarray, np.ndarray]],
    folders: Sequence[str],
    unpacked: str,
    archives: Mapping[str, str],
) -> tuple[Images, Images]:
    """Read the training and test images; download them if they are missing or damaged and ``data.download`` is set.

    Args:
        options: The data group of the configuration.
        kind: torchvision's dataset class.
        read: (files of the data set, whether to read the training set) → images and labels.
        folders: See `Files`.
        unpacked: Folder below the root that the class unpacks to.
        archives: MD5s of the archives that the class downloads, by path below the root.

    Raises:
        ConvzooError: The data set is missing or incomplete, or could not be downloaded.
    """
    root, name = Path(os.path.expanduser(options.root)), kind.__name__

    def attempt() -> list[Images] | BadFile:
        files = Files(root, folders, [tar for name in archives if ".tar" in name for tar in (name, name[:-3])])
        try:
            return [Images(*map(torch.from_numpy, read(files, train))) for train in (True, False)]
        except BadFile as error:
            return error

    found = attempt()
    if isinstance(found, BadFile) and options.download:
        from lightning_modules.data.download import fetch, one_at_a_time

        with one_at_a_time(root, name):
            found = attempt()  # another process may have downloaded it meanwhile
            if isinstance(found, BadFile):
                fetch(kind, unpacked, archives, root)
                found = attempt()
    if isinstance(found, BadFile):
        raise ConvzooError(
            f"{name} is missing or incomplete in {root}: {found}. Type data.download=true to download it (files that "
            "are there are replaced), or data.root=FOLDER, where FOLDER has its files, compressed or not."
        )
    train, test = found
    return train, test
