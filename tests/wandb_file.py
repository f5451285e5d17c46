"""Reads W&B's offline file record by record, without W&B's own reader (which is not part of its Python package).

The format is LevelDB's log: 32 KiB blocks of chunks (checksum, length, type), behind a header of seven bytes.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wandb.proto.wandb_internal_pb2 import Record

BLOCK, HEADER, CHUNK = 32768, 7, 7
FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4


def records(path: Path) -> Iterator[Record]:
    """Every record of a ``run-*.wandb`` file."""
    data = path.read_bytes()
    assert data[:4] == b":W&B", f"{path} is no W&B file"
    position, parts = HEADER, []
    while position + CHUNK <= len(data):
        left = BLOCK - position % BLOCK
        if left < CHUNK:
            position += left
            continue
        _, length, kind = struct.unpack("<IHB", data[position : position + CHUNK])
        parts.append(data[position + CHUNK : position + CHUNK + length])
        position += CHUNK + length
        if kind in (FULL, LAST):
            yield Record.FromString(b"".join(parts))
            parts = []


def read_run(folder: Path) -> dict[str, Any]:
    """The one run below a folder: its ``id``, ``config``, ``history`` (a list of rows), ``summary``, ``exit_code`` …"""
    (path,) = folder.rglob("run-*.wandb")
    run: dict[str, Any] = {"config": {}, "history": [], "summary": {}, "metrics": [], "exit_code": None}
    for record in records(path):
        kind = record.WhichOneof("record_type")
        if kind == "run":
            run |= {"id": record.run.run_id, "group": record.run.run_group}
            run |= {"name": record.run.display_name, "job_type": record.run.job_type}
            run["config"] |= {i.key: json.loads(i.value_json) for i in record.run.config.update}
        elif kind == "config":
            run["config"] |= {i.key: json.loads(i.value_json) for i in record.config.update}
        elif kind == "history":
            items = {(i.key or ".".join(i.nested_key)): json.loads(i.value_json) for i in record.history.item}
            run["history"].append(items)
            # What a row says stands in the summary until a later record says otherwise.
            run["summary"] |= items
        elif kind == "summary":
            updates = {(i.key or ".".join(i.nested_key)): json.loads(i.value_json) for i in record.summary.update}
            run["summary"] |= updates
        elif kind == "metric":
            run["metrics"].append(record.metric)
        elif kind == "exit":
            run["exit_code"] = record.exit.exit_code
    return run
