"""Files that a kill, a cut or a full disk leaves whole: the old one stays until the new one is on the disk."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from zoo.errors import ConvzooError

UNFINISHED = ".unfinished"
"""What is added to a file's name while it is written."""

ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""The disk, somebody's share of it, or a file's largest size is used up."""


def write_whole(path: Path, content: bytes | memoryview | str, previous: Path | None = None) -> None:
    """Writes a file whole or not at all: to a temporary file, synced, renamed, and the folder synced too.

    Args:
        path: The file.
        content: All of it; a text is written as UTF-8.
        previous: Where the file that was there goes, instead of being replaced.

    Raises:
        OSError: It cannot be written; the old one is still there.
    """
    unfinished = path.with_name(path.name + UNFINISHED)
    try:
        with unfinished.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        if previous is not None and path.exists():
            path.replace(previous)
        unfinished.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            unfinished.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Puts the names of a folder's files on the disk; not every file system can."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def remove_unfinished(folder: Path) -> None:
    """Removes what a killed process was writing."""
    for path in folder.glob(f"*{UNFINISHED}"):
        with contextlib.suppress(OSError):
            path.unlink()


class RetryWriter:
    """For files that a run can do without for a while: a write that fails is told once and tried again later.

    Attributes:
        problem: Why the last one failed; None: it did not.
    """

    def __init__(self) -> None:
        self.problem: str | None = None

    def attempt(self, write: Callable[[], None], path: Path, size: int) -> bool:
        """Calls what writes ``size`` bytes to a file; whether that worked."""
        before = self.problem
        try:
            write()
        except OSError as error:
            self.problem = why_not(error, path, size)
            if before is None:
                print(f"{self.problem}. Training goes on; it is tried again.", flush=True)
            return False
        self.problem = None
        if before is not None:
            print(f"{path} was written: there is room again.", flush=True)
        return True

    def end(self) -> None:
        """To be called after the last attempt.

        Raises:
            ConvzooError: It failed.
        """
        if self.problem is not None:
            raise ConvzooError(f"{self.problem}. Make room, and type the same command: it goes on.")


def why_not(error: OSError, path: Path, size: int) -> str:
    """Why a file of ``size`` bytes could not be written, in words a person can act on."""
    reason = error.strerror or str(error)
    if error.errno in ROOM:
        with contextlib.suppress(OSError):
            reason += f": {_mb(shutil.disk_usage(path.parent).free)} MB are free there, {_mb(size)} MB are needed"
    return f"{path} could not be written ({reason})"


def _mb(size: int) -> str:
    return f"{size / 1e6:.3g}"
