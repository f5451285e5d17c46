"""Download a published data set: completely or not at all, by one process at a time."""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
import tarfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from typing import Any

from zoo.errors import ConvzooError
from zoo.log import log

SILENCE_S = 60.0
"""Timeout in seconds: a server that sends nothing for this long has failed."""

FAILURES = (OSError, RuntimeError, ValueError, EOFError, HTTPException, tarfile.TarError, zlib.error)


@contextmanager
def one_at_a_time(root: Path, name: str) -> Iterator[None]:
    """Hold a lock so that only one process at a time downloads a data set to a folder; wait for it if necessary.

    Raises:
        ConvzooError: The folder is not writable.
    """
    try:
        root.mkdir(parents=True, exist_ok=True)
        file = (root / f".{name}.lock").open("a")
    except OSError as error:
        raise ConvzooError(f"{name} cannot be downloaded to {root}: {error.strerror}. Type data.root=FOLDER.") from None
    with file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            log.info(f"Waiting for another process that is downloading {name} to {root}.")
            fcntl.lockf(file, fcntl.LOCK_EX)
        yield


def fetch(kind: Any, folder: str, archives: Mapping[str, str], root: Path) -> None:
    """Download and unpack a data set beside its final folder, and move it there once it is complete.

    Args:
        kind: torchvision's dataset class.
        folder: Folder below ``root`` that the class unpacks to; an older one is replaced.
        archives: MD5s by path below ``root``; archives that exist already are used.
        root: Root folder of the data set.

    Raises:
        ConvzooError: The download failed; nothing has changed.
    """
    part = root / f".{kind.__name__}.part"  # may be left over from a killed process
    shutil.rmtree(part, ignore_errors=True)
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(SILENCE_S)
    try:
        for name, md5 in archives.items():
            _take(root / name, part / name, md5)
        # Skip its __init__, which would unpickle the downloaded files.
        dataset = kind.__new__(kind)
        dataset.root = str(part)
        dataset.download()
        if (root / folder).exists():
            os.rename(root / folder, part / "old")
        os.rename(part / folder, root / folder)
    except FAILURES as error:
        text = " ".join(str(error).split()) or type(error).__name__
        raise ConvzooError(
            f"{kind.__name__} could not be downloaded to {root}: {text} Try again, or type data.root=FOLDER if you "
            "have it elsewhere."
        ) from None
    finally:
        socket.setdefaulttimeout(before)
        shutil.rmtree(part, ignore_errors=True)


def _take(there: Path, to: Path, md5: str) -> None:
    from torchvision.datasets.utils import check_integrity

    if check_integrity(there, md5):
        to.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(there, to)
