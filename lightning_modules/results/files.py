"""Writes files atomically: a kill, a power cut or a full disk leaves either the old file or the new one."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from zoo.errors import ConvzooError
from zoo.log import log

UNFINISHED = ".unfinished"
"""Suffix of a file while it is being written."""

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Errors for a full disk, an exhausted quota, and a file above the maximum size."""


class UnwritableError(ConvzooError, OSError):
    """A file could not be written; the message says why, and how much space is needed and free on a full disk."""


def write_whole(path: Path, content: bytes | memoryview | str, previous: Path | None = None) -> None:
    """Writes a file atomically: writes a temporary file, syncs and renames it, then syncs the folder.

    Args:
        path: The file.
        content: Its whole content; text is encoded as UTF-8.
        previous: Where to move an existing file, which is otherwise replaced.

    Raises:
        UnwritableError: It cannot be written; the old file is still there.
    """
    unfinished = path.with_name(path.name + UNFINISHED)
    content = content.encode() if isinstance(content, str) else content
    try:
        with unfinished.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if previous is not None and path.exists():
            path.replace(previous)
        unfinished.replace(path)
    except BaseException as error:  # Ctrl-C too
        with contextlib.suppress(OSError):
            unfinished.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise UnwritableError(why_not(error, path, len(content))) from error
        raise
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Syncs a folder, so that a rename survives a power cut; some file systems do not support it."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def remove_unfinished(folder: Path) -> None:
    """Removes the partial files of a killed process."""
    for path in folder.glob(f"*{UNFINISHED}"):
        with contextlib.suppress(OSError):
            path.unlink()


class RetryWriter:
    """Writes files that a run can do without for a while: reports a failed write once and lets it be retried.

    Attributes:
        problem: Why the last write failed; None if it succeeded.
    """

    def __init__(self) -> None:
        self.problem: str | None = None

    def attempt(self, write: Callable[[], None], path: Path, size: int) -> bool:
        """Calls ``write``, which writes ``size`` bytes to ``path``; returns whether it succeeded."""
        before = self.problem
        try:
            write()
        except OSError as error:
            self.problem = why_not(error, path, size)
            if before is None:
                log.warning(f"{self.problem}. Training continues and tries again.")
            return False
        self.problem = None
        if before is not None:
            log.info(f"{path} was written: there is space again.")
        return True

    def end(self) -> None:
        """Ends the series of attempts.

        Raises:
            ConvzooError: The last attempt failed.
        """
        if self.problem is not None:
            raise ConvzooError(f"{self.problem}. Free some space and run the same command again to resume.")


def why_not(error: OSError, path: Path, size: int) -> str:
    """Describes why a file of ``size`` bytes could not be written, with the free space if the disk is full."""
    if isinstance(error, UnwritableError):
        return str(error)
    reason = error.strerror or str(error)
    if error.errno in FULL:
        with contextlib.suppress(OSError):
            reason += f": {shutil.disk_usage(path.parent).free / 1e6:.3g} MB free, {size / 1e6:.3g} MB needed"
    return f"{path} could not be written ({reason})"
