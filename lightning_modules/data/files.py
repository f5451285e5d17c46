"""Read image files from unreliable disks and networks, with retries, and make any path printable."""

from __future__ import annotations

import errno
import os
import stat
import time

PAUSES_S = (0.1, 0.5, 2.0)
"""Seconds between attempts to read a file: a network file system may come back, a file being replaced may reappear."""
PATIENCE_S = 5.0
"""Maximum time in seconds that all files of a batch wait together: a missing folder must not take hours to report."""

FINAL = (errno.EACCES, errno.EPERM, errno.EISDIR, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG)
"""Errors that a retry cannot cure."""


class BadImage(Exception):
    """An image that cannot be used.

    Attributes:
        kind: What is wrong; one of a few values, for counting.
        detail: Message of the file system or the decoder; may be empty.
    """

    def __init__(self, kind: str, detail: str = "") -> None:
        super().__init__(f"{kind} ({detail})" if detail else kind)
        self.kind, self.detail = kind, detail

    def __reduce__(self) -> tuple[type, tuple[str, str]]:
        return BadImage, (self.kind, self.detail)


def read(path: str, until: float) -> bytes:
    """Return a file's content; retry on errors of the file system.

    Args:
        path: The file's path.
        until: No retry starts after this time (`time.monotonic`).

    Raises:
        BadImage: The file cannot be read, is too large for the memory, is empty, or is not a regular file.
    """
    for pause in (*PAUSES_S, None):
        try:
            with open(path, "rb", buffering=0, opener=_at_once) as file:
                if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                    raise BadImage("not a regular file")
                content = file.read()
        except OSError as error:
            if pause is None or error.errno in FINAL or time.monotonic() + pause > until:
                raise BadImage("cannot be read", error.strerror or type(error).__name__) from None
            time.sleep(pause)
        except MemoryError:
            raise BadImage("too large", "not enough memory to read it") from None
        else:
            if not content:
                raise BadImage("empty file")
            return content
    raise AssertionError


def _at_once(path: str, flags: int) -> int:
    """Open a file without blocking, since opening a pipe without a writer would wait for ever."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def shown(path: str | os.PathLike[str]) -> str:
    r"""Return a path as printable text for any terminal or file; invalid UTF-8 and line ends are escaped (``\xff``)."""
    text = os.fsencode(path).decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
