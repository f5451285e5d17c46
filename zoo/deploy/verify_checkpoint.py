"""Reads a checkpoint that carries checksums, and finds out where it was cut or changed."""

from __future__ import annotations

import errno
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

import torch

from zoo.errors import ConvzooError


class DamagedError(ConvzooError):
    """A checkpoint whose bytes are not those that were written."""


def read_checked(path: Path) -> dict[str, Any]:
    """Reads a ``.ckpt`` once its checksums are right: a CRC-32 for each tensor and for what names them.

    A file of ``torch.save`` is a zip archive, which has these anyway; PyTorch writes them and does not look at them
    when it reads. ``unzip -t`` checks them too.

    Returns:
        Its content, on the CPU; nothing in it is executed (``weights_only=True``).

    Raises:
        DamagedError: It was cut or changed, or is no checkpoint.
        OSError, MemoryError: It cannot be read now, which says nothing about its content.
    """
    file = path.open("rb")
    try:
        with file:
            return _read(file, path)
    except DamagedError:
        raise
    except zipfile.BadZipFile as error:
        raise DamagedError(f"{path} is damaged, or not a checkpoint of convzoo's ({error}).") from None
    except MemoryError:
        raise
    except Exception as error:  # whatever bytes that are no checkpoint make zipfile and torch raise
        # zipfile seeks to before the start of a file that was cut.
        if isinstance(error, OSError) and error.errno != errno.EINVAL:
            raise
        if isinstance(error, RuntimeError) and "allocate memory" in str(error):
            raise MemoryError(str(error)) from None
        raise DamagedError(f"{path} is damaged, or not a checkpoint of convzoo's ({type(error).__name__}).") from None


def _read(file: BinaryIO, path: Path) -> dict[str, Any]:
    with zipfile.ZipFile(file) as archive:
        _check_size(path, archive)
        if wrong := archive.testzip():
            raise DamagedError(f"{path} is damaged: the checksum of {wrong} is wrong.")
    file.seek(0)
    content = torch.load(file, map_location="cpu", weights_only=True)
    if not isinstance(content, dict):
        raise DamagedError(f"{path} is not a checkpoint of convzoo's: it holds a {type(content).__name__}.")
    return content


def _check_size(path: Path, archive: zipfile.ZipFile) -> None:
    """Refuses a file that becomes larger when it is read."""
    members = archive.infolist()
    if any(m.compress_type != zipfile.ZIP_STORED for m in members):
        raise DamagedError(f"{path} is not a checkpoint of convzoo's: it is compressed.")
    if sum(m.file_size for m in members) > path.stat().st_size:
        raise DamagedError(f"{path} is damaged: it claims to hold more than there is.")
