"""The file W&B writes for each start of a run (``run-ID.wandb``): what is in it, and whether it is uploaded.

W&B has no public reader. Its format is LevelDB's log format: a header of 7 bytes, then 32 KiB blocks of chunks
(checksum, length, type, data).
"""

from __future__ import annotations

import glob
import json
import re
import struct
import zlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.text import typed

if TYPE_CHECKING:
    from wandb.proto.wandb_internal_pb2 import Record

Row = dict[str, Any]

STEP = "trainer/global_step"
"""Column of the optimizer steps, named as in Lightning's own logger."""

BLOCK, HEADER, CHUNK = 32768, 7, 7
FULL, LAST = 1, 4


def records(path: Path) -> Iterator[Record]:
    """Yield the records of a file up to the first incomplete one, which a killed writer leaves."""
    from google.protobuf.message import DecodeError
    from wandb.proto.wandb_internal_pb2 import Record

    data = path.read_bytes() if path.exists() else b""
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


def items(changed: Any) -> Row:
    """Return the items of a W&B record as a dictionary."""
    return {(i.key or ".".join(i.nested_key)): json.loads(i.value_json) for i in changed}


def rows(path: Path) -> list[Row]:
    """Return the rows of the history, numbered by ``_step``."""
    return [items(r.history.item) for r in records(path) if r.WhichOneof("record_type") == "history"]


def has_end(path: Path) -> bool:
    """Whether the file contains the run's exit record."""
    return any(record.WhichOneof("record_type") == "exit" for record in records(path))


class Written:
    """The rows in the files of a run.

    Args:
        earlier: Files of earlier starts of the run.
        own: Files of this start, in which a row without a step is looked for.
    """

    def __init__(self, earlier: Sequence[Path], own: Sequence[Path]) -> None:
        ours = [row for path in own for row in rows(path)]
        self.rows = [row for path in earlier for row in rows(path)] + ours
        self.next = max((row["_step"] + 1 for row in self.rows), default=0)
        self._stepless = [row for row in ours if STEP not in row]
        self._last: dict[str, int] = {}
        """Of each column, the last step with a value: a file lacks the last rows, never one in between."""
        for row in self.rows:
            if STEP in row:
                self._last |= {key: max(self._last.get(key, -1), row[STEP]) for key in row}

    def __contains__(self, row: Row) -> bool:
        if STEP in row:
            return all(self._last.get(key, -1) >= row[STEP] for key in row)
        return any(row.items() <= written.items() for written in self._stepless)


def run_files(folder: Path, run_id: str) -> list[Path]:
    """Return the files of all starts of a run below a folder, the first start first."""

    def started(path: Path) -> tuple[str, float]:
        found = re.search(r"run-(\d{8}_\d{6})-", path.parent.name)
        return found[1] if found else "", path.stat().st_mtime

    return sorted((folder / "wandb").glob(f"*run-*/run-{glob.escape(run_id)}.wandb"), key=started)


def this_run_id(first: str, folder: Path, resumed: bool) -> str:
    """Return the id of the earlier start that this one continues, or a new id.

    A run that starts from scratch gets a new id if an earlier start in the folder has logged rows.

    Args:
        first: The id of the first start.
        folder: Folder that contains W&B's files.
        resumed: True if the run continues from a checkpoint.
    """
    last, number = first, 2
    while run_files(folder, following := f"{first}-{number}"):
        last, number = following, number + 1
    return last if resumed or not any(map(rows, run_files(folder, last))) else following


def is_offline(path: Path) -> bool:
    """Whether the file belongs to an offline start."""
    return path.parent.name.startswith("offline-")


def mark_uploaded(*starts: Path) -> None:
    """Leave the marks by which ``wandb sync`` skips what it has uploaded: a second upload would double the rows."""
    with suppress(OSError):
        for path in starts:
            path.with_suffix(".wandb.synced").touch()


def upload_command(starts: Sequence[Path]) -> str | None:
    """Return the command that uploads the rest of a run; None if the server has everything.

    Args:
        starts: The files of all starts of the run, the first start first.
    """
    # An online start also sends what the server lacks of earlier starts, and contains it in its own file.
    last_online = max((i for i, path in enumerate(starts) if not is_offline(path)), default=0)
    rest = [path for path in starts[last_online:] if not path.with_suffix(".wandb.synced").exists()]
    # Without the flag, W&B skips runs that started online.
    flag = [] if all(map(is_offline, rest)) else ["--no-skip-online"]
    return " ".join(["wandb", "sync", *flag, *(typed(path.parent) for path in rest)]) if rest else None
