"""Read the file W&B writes for each start of a run (``run-ID.wandb``), complete or truncated.

The format is LevelDB's log format: a header of 7 bytes, then 32 KiB blocks of chunks (checksum, length, type, data).
"""

from __future__ import annotations

import json
import re
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wandb.proto.wandb_internal_pb2 import Record

BLOCK, HEADER, CHUNK = 32768, 7, 7
FULL, LAST = 1, 4


def records(path: Path) -> Iterator[Record]:
    """Yield the records of a ``run-*.wandb`` file up to the first incomplete one, which a killed writer leaves."""
    from google.protobuf.message import DecodeError
    from wandb.proto.wandb_internal_pb2 import Record

    data = path.read_bytes()
    position, parts = HEADER, []
    while position + CHUNK <= len(data):
        left = BLOCK - position % BLOCK
        if left < CHUNK:
            position += left
            continue
        checksum, length, kind = struct.unpack("<IHB", data[position : position + CHUNK])
        part = data[position + CHUNK : position + CHUNK + length]
        if len(part) < length or zlib.crc32(bytes([kind]) + part) != checksum:
            return
        parts.append(part)
        position += CHUNK + length
        if kind in (FULL, LAST):
            try:
                yield Record.FromString(b"".join(parts))
            except DecodeError:
                return
            parts = []


def items(changed: Any) -> dict[str, Any]:
    """Return the items of a W&B record as a dictionary."""
    return {(i.key or ".".join(i.nested_key)): json.loads(i.value_json) for i in changed}


def rows(path: Path) -> list[dict[str, Any]]:
    """Return the rows of the history, numbered by ``_step``."""
    return [items(r.history.item) for r in records(path) if r.WhichOneof("record_type") == "history"]


def count_rows(path: Path) -> int:
    """Return the number of history rows in the file."""
    return sum(record.WhichOneof("record_type") == "history" for record in records(path))


def has_end(path: Path) -> bool:
    """Whether the file contains the run's exit record."""
    return any(record.WhichOneof("record_type") == "exit" for record in records(path))


def run_files(folder: Path) -> list[Path]:
    """Return the files of all starts below a run's folder, the first start first."""

    def started(path: Path) -> tuple[str, float]:
        found = re.search(r"run-(\d{8}_\d{6})-", path.parent.name)
        return found[1] if found else "", path.stat().st_mtime

    return sorted((folder / "wandb").glob("*run-*/run-*.wandb"), key=started)
