"""Where the files of a published data set lie: as torchvision puts them, as their publisher or a distribution does."""

from __future__ import annotations

import errno
import gzip
import os
import tarfile
import zlib
from collections.abc import Sequence
from pathlib import Path

from lightning_modules.data.formats import BadFile

DAMAGE = (EOFError, gzip.BadGzipFile, zlib.error, tarfile.TarError)


class Files:
    """The files of one data set. Nothing is written: a folder that is read-only, or somebody else's, will do.

    Args:
        root: ``data.root``.
        folders: Where they may lie below it, the usual place first. The root itself is looked at last.
        archives: Names of tar archives that have all of them.
    """

    def __init__(self, root: Path, folders: Sequence[str], archives: Sequence[str] = ()) -> None:
        self.root, self.folders, self.archives = root, folders, archives
        self._unpacked: dict[Path, dict[str, bytes]] = {}

    def read(self, name: str) -> tuple[Path, bytes]:
        """A file's path and its content; a ``.gz`` or an archive is unpacked in memory.

        Raises:
            BadFile: It is packed, and cut off or damaged.
            OSError: It is nowhere, or cannot be read.
        """
        for folder in self.folders:
            if found := _content(self.root / folder / name):
                return found
        for folder in (".", *self.folders):
            for archive in self.archives:
                path = self.root / folder / archive
                if (content := self._unpack(path).get(name)) is not None:
                    return path, content
        # CIFAR-100 calls a file "train", as many a folder is called.
        if not (self.root / name).is_dir() and (found := _content(self.root / name)):
            return found
        usual = self.root / self.folders[0] / name
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(usual))

    def _unpack(self, path: Path) -> dict[str, bytes]:
        """What a tar archive has, by name without folders; nothing where there is none."""
        if path not in self._unpacked:
            found: dict[str, bytes] = {}
            if path.is_file():
                try:
                    with tarfile.open(path) as archive:
                        for member in archive:
                            if member.isfile() and (file := archive.extractfile(member)):
                                found.setdefault(os.path.basename(member.name), file.read())
                except DAMAGE as error:
                    raise BadFile(_damaged(path, error)) from None
            self._unpacked[path] = found
        return self._unpacked[path]


def _content(path: Path) -> tuple[Path, bytes] | None:
    if path.exists():
        return path, path.read_bytes()
    packed = path.with_name(f"{path.name}.gz")
    if not packed.is_file():
        return None
    try:
        content = packed.read_bytes()
        if not content:
            raise EOFError
        return packed, gzip.decompress(content)
    except DAMAGE as error:
        raise BadFile(_damaged(packed, error)) from None


def _damaged(path: Path, error: Exception) -> str:
    cut = isinstance(error, EOFError) or "unexpected end" in str(error)
    return f"{path} ({path.stat().st_size:,} bytes) is {'cut off' if cut else f'damaged ({error})'}"
