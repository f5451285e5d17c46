"""The file W&B writes for each start of a run (``run-ID.wandb``), and what is in it.

W&B has no public reader. Its format is LevelDB's log format: a header of 7 bytes, then 32 KiB blocks of chunks
(checksum, length, type, data).
"""

from __future__ import annotations

import glob
import json
import re
import struct
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wandb.proto.wandb_internal_pb2 import Record

Row = dict[str, Any]

STEP = "trainer/global_step"
"""Column of the optimizer steps, named as in Lightning's own logger."""

BLOCK, HEADER, CHUNK = 32768, 7, 7
FULL, LAST = 1, 4


class RecordFile:
    """A file's records, each read once: a later reading goes on where the one before ended."""

    def __init__(self, path: Path) -> None:
        self.path, self._position = path, HEADER

    def read(self) -> Iterator[Record]:
        """Yield the records up to the first incomplete one, which a killed writer leaves."""
        from google.protobuf.message import DecodeError
        from wandb.proto.wandb_internal_pb2 import Record

        start, data, parts = self._position, self._bytes(), []
        at = 0
        while at + CHUNK <= len(data):
            left = BLOCK - (start + at) % BLOCK
            if left < CHUNK:
                at += left
                continue
            checksum, length, kind = struct.unpack("<IHB", data[at : at + CHUNK])
            part = data[at + CHUNK : at + CHUNK + length]
            if len(part) < length or zlib.crc32(bytes([kind]) + part) != checksum:
                return
            parts.append(part)
            at += CHUNK + length
            if kind in (FULL, LAST):
                try:
                    record = Record.FromString(b"".join(parts))
                except DecodeError:
                    return
                self._position, parts = start + at, []
                yield record

    def _bytes(self) -> bytes:
        if not self.path.exists():
            return b""
        with self.path.open("rb") as file:
            file.seek(self._position)
            return file.read()


def records(path: Path) -> Iterator[Record]:
    """Yield the records of a file up to the first incomplete one."""
    return RecordFile(path).read()


def items(changed: Any) -> Row:
    """Return the items of a W&B record as a dictionary."""
    return {(i.key or ".".join(i.nested_key)): json.loads(i.value_json) for i in changed}


def rows(path: Path) -> list[Row]:
    """Return the rows of the history, numbered by ``_step``."""
    return list(_rows(records(path)))


def _rows(found: Iterable[Record]) -> Iterator[Row]:
    return (items(r.history.item) for r in found if r.WhichOneof("record_type") == "history")


def has_end(path: Path) -> bool:
    """Whether the file contains the run's exit record."""
    return any(record.WhichOneof("record_type") == "exit" for record in records(path))


class Written:
    """The rows in the files of a run, as far as they have been read.

    Attributes:
        next: Number of the row that follows.

    Args:
        earlier: Files of earlier starts of the run.
        own: Files of this start, in which a row without a step is looked for.
    """

    def __init__(self, earlier: Sequence[Path] = (), own: Sequence[Path] = ()) -> None:
        self.next = 0
        self._own = [RecordFile(path) for path in own]
        self._stepless: list[Row] = []
        self._last: dict[str, int] = {}
        """Of each column, the last step with a value: a file lacks the last rows, never one in between."""
        for path in earlier:
            self._take(rows(path))
        self._stepless.clear()
        self.read()

    def follow(self, path: Path) -> None:
        """Look into another file of this start, too."""
        self._own.append(RecordFile(path))

    def read(self) -> None:
        """Read what has been written since."""
        for file in self._own:
            self._take(_rows(file.read()))

    def _take(self, new: Iterable[Row]) -> None:
        for row in new:
            self.next = max(self.next, row["_step"] + 1)
            if STEP in row:
                self._last |= {key: max(self._last.get(key, -1), row[STEP]) for key in row}
            else:
                self._stepless.append(row)

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
