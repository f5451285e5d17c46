"""Find out which part of a W&B run has been uploaded, as far as W&B reports it, and how to upload the rest."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from lightning_modules.tracking.wandb_file import count_rows
from zoo.text import typed


def upload_command(starts: Sequence[Path]) -> str | None:
    """Return the command that uploads the rest of a run; None if the server has everything.

    Args:
        starts: The files of all starts of the run, the first start first.
    """
    # An online start also sends what the server lacks of earlier starts, and contains it in its own file.
    online = [i for i, path in enumerate(starts) if not is_offline(path)]
    folders = [path.parent for path in starts[max(online, default=0) :] if not uploaded(path)]
    if not folders:
        return None
    # Without the flag, W&B skips runs that started online.
    flag = ["--no-skip-online"] if online else []
    return " ".join(["wandb", "sync", *flag, *map(typed, folders)])


def missing(path: Path) -> str:
    """Return a description of what the server lacks of one start."""
    taken, _ = acknowledged(path)
    written = count_rows(path)
    what = f"{written - taken} of {written} rows" if written > taken else "the end of the run"
    return f"{what}, as the run is offline" if is_offline(path) else what


def is_offline(path: Path) -> bool:
    """Whether the file belongs to an offline start."""
    return path.parent.name.startswith("offline-")


def acknowledged(path: Path) -> tuple[int, bool]:
    """Return the number of rows the server has accepted from a file, and whether it has the end of the run."""
    if is_offline(path):
        return 0, False
    try:
        return _acknowledged_online(path.parent)
    except (OSError, ValueError):
        return 0, False


def uploaded(path: Path) -> bool:
    """Whether the server has the whole file."""
    if path.with_suffix(".wandb.synced").exists():
        return True
    taken, ended = acknowledged(path)
    return ended and taken >= count_rows(path)


def _acknowledged_online(folder: Path) -> tuple[int, bool]:
    """Parse W&B's debug log for the number of accepted rows, and whether the end of the run was accepted.

    W&B reports the upload nowhere else: if the server rejects a key in mid-run, ``finish`` returns as if nothing had
    happened.
    """
    sent, taken, ended = {}, 0, False
    for line in (folder / "logs" / "debug-internal.log").read_text(errors="replace").splitlines():
        if '"filestream: ' not in line:
            continue
        said = json.loads(line)
        if said["msg"] == "filestream: sending request":
            sent = said
        elif said["msg"] == "filestream: request sent":
            taken += sent.get("history_lines", 0)
            ended |= bool(sent.get("complete"))
            sent = {}
    return taken, ended
