"""Reading image files that lie on disks and networks as they are: with patience, and with names that can be shown."""

from __future__ import annotations

import errno
import os
import stat
import time

PAUSES_S = (0.1, 0.5, 2.0)
"""Between attempts to read a file: a network file system comes back, or a file is being replaced."""
PATIENCE_S = 5.0
"""What all files of a batch may wait together: a folder that is gone shall not take hours to say so."""

FINAL = (errno.EACCES, errno.EPERM, errno.EISDIR, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG)
"""What does not become better by waiting."""


class BadImage(Exception):
    """An image that cannot be used.

    Attributes:
        kind: What is wrong, one of few, to count by.
        detail: What the file system or the decoder said; may be empty.
    """

    def __init__(self, kind: str, detail: str = "") -> None:
        super().__init__(f"{kind} ({detail})" if detail else kind)
        self.kind, self.detail = kind, detail

    def __reduce__(self) -> tuple[type, tuple[str, str]]:
        return BadImage, (self.kind, self.detail)


def read(path: str, until: float) -> bytes:
    """A file's content; what the file system refuses is asked for again.

    Args:
        until: No more attempts that would begin after this (`time.monotonic`).

    Raises:
        BadImage: It cannot be read, or is empty.
    """
    for pause in (*PAUSES_S, None):
        try:
            with open(path, "rb", buffering=0, opener=_at_once) as file:
                if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                    raise BadImage("no file")
                content = file.read()
        except OSError as error:
            if pause is None or error.errno in FINAL or time.monotonic() + pause > until:
                raise BadImage("cannot be read", error.strerror or type(error).__name__) from None
            time.sleep(pause)
        except MemoryError:
            raise BadImage("too large", "no memory to read it into") from None
        else:
            if not content:
                raise BadImage("no bytes")
            return content
    raise AssertionError


def _at_once(path: str, flags: int) -> int:
    """Opens a file; a pipe that nobody writes to is not waited for."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def shown(path: str | os.PathLike[str]) -> str:
    r"""A path as a text that any terminal and any file takes: bytes that are no UTF-8, and line ends, as ``\xff``."""
    text = os.fsencode(path).decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
