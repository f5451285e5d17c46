"""Find the files of a published data set, in the layout of torchvision, the publisher or a distribution."""

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
            BadFile: The file is packed, and truncated or damaged.
            OSError: The file does not exist, or cannot be read.
        """
        for folder in self.folders:
            if found := _content(self.root / folder / name):
                return found
        for folder in (".", *self.folders):
            for archive in self.archives:
                path = self.root / folder / archive
                if (content := self._unpack(path).get(name)) is not None:
                    return path, content
        # CIFAR-100 has a file named "train", which is often a folder's name too.
        if not (self.root / name).is_dir() and (found := _content(self.root / name)):
            return found
        usual = self.root / self.folders[0] / name
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(usual))

    def _unpack(self, path: Path) -> dict[str, bytes]:
        """Return a tar archive's files by base name; empty if the archive does not exist."""
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
