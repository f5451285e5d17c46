"""Verifies the checksums of a checkpoint and reads it; detects truncated and modified files."""

from __future__ import annotations

import errno
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

import torch

from zoo.errors import ConvzooError


class DamagedError(ConvzooError):
    """A checkpoint whose bytes differ from those that were written."""


def read_checked(path: Path) -> dict[str, Any]:
    """Reads a ``.ckpt`` after verifying its checksums: a CRC-32 for each tensor and for the index that names them.

    ``torch.save`` writes a zip archive, which includes these checksums, but PyTorch does not verify them when it reads.
    ``unzip -t`` verifies them too.

    Returns:
        The content, on the CPU; nothing in it is executed (``weights_only=True``).

    Raises:
        DamagedError: The file was truncated or modified, or is not a checkpoint.
        OSError, MemoryError: The file cannot be read now, which says nothing about its content.
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
    except Exception as error:  # zipfile and torch may raise anything on bytes that are no checkpoint
        # EINVAL: in a truncated file zipfile seeks to before the start.
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
    """Rejects a file that expands when it is read."""
    members = archive.infolist()
    if any(m.compress_type != zipfile.ZIP_STORED for m in members):
        raise DamagedError(f"{path} is not a checkpoint of convzoo's: it is compressed.")
    if sum(m.file_size for m in members) > path.stat().st_size:
        raise DamagedError(f"{path} is damaged: it claims to hold more than there is.")
