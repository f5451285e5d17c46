"""What of a W&B run the server has, as far as W&B tells, and the command that uploads the rest."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from lightning_modules.tracking.wandb_file import count_rows
from zoo.text import typed


def upload_command(starts: Sequence[Path]) -> str | None:
    """What a person types to upload the rest; None where the server has everything.

    Args:
        starts: The files of all starts of a run, the first start first.
    """
    # An online start sends what the server has not got of earlier ones, and has it in its own file.
    online = [i for i, path in enumerate(starts) if not is_offline(path)]
    folders = [path.parent for path in starts[max(online, default=0) :] if not uploaded(path)]
    if not folders:
        return None
    # Without the flag W&B leaves out what was begun online.
    flag = ["--no-skip-online"] if online else []
    return " ".join(["wandb", "sync", *flag, *map(typed, folders)])


def missing(path: Path) -> str:
    """What the server has not got of one start, in words."""
    taken, _ = acknowledged(path)
    written = count_rows(path)
    what = f"{written - taken} of {written} rows" if written > taken else "the end of the run"
    return f"{what}, as the run is offline" if is_offline(path) else what


def is_offline(path: Path) -> bool:
    """Whether the file is of a start that asked no server."""
    return path.parent.name.startswith("offline-")


def acknowledged(path: Path) -> tuple[int, bool]:
    """What the server took of a file, as far as W&B tells: how many rows, and whether the end of the run."""
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
    """What the server took of an online run, by W&B's own log: how many rows, and whether the end of the run.

    W&B says nowhere else whether a run was uploaded: where the server refuses a key in mid-run, ``finish`` returns as
    if nothing had happened.
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
