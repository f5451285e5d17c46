"""What of a W&B run the server has, by evidence, and how to upload the rest."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from lightning_modules.tracking.wandb_files import rows
from zoo.text import typed


def is_offline(path: Path) -> bool:
    """Whether the file belongs to an offline start."""
    return path.parent.name.startswith("offline-")


def mark_uploaded(*starts: Path) -> None:
    """Leave the marks by which ``wandb sync`` skips what it has uploaded: a second upload would double the rows."""
    with suppress(OSError):
        for path in starts:
            path.with_suffix(".wandb.synced").touch()


def acknowledged(path: Path) -> tuple[int, bool] | None:
    """Return how many rows of an online start the server took, and whether it took the end; None if nothing says so.

    Only W&B's debug log does: if the server rejects the key in mid-run, ``finish`` returns as usual.
    """
    sent, taken, ended, found = dict[str, Any](), 0, False, False
    with suppress(OSError, ValueError):
        for line in (path.parent / "logs" / "debug-internal.log").read_text(errors="replace").splitlines():
            if '"filestream: ' not in line:
                continue
            found, said = True, json.loads(line)
            if said["msg"] == "filestream: sending request":
                sent = said
            elif said["msg"] == "filestream: request sent":
                taken += sent.get("history_lines", 0)
                ended |= bool(sent.get("complete"))
    return (taken, ended) if found else None


def is_uploaded(path: Path, warned: bool) -> bool:
    """Whether the server took all of an online start that has finished; ``warned`` decides if there is no evidence."""
    if (evidence := acknowledged(path)) is None:
        return not warned
    return evidence[1] and evidence[0] >= len(rows(path))


def not_uploaded(starts: Sequence[Path]) -> list[Path]:
    """Return the files that the server lacks or has only partly.

    Args:
        starts: The files of all starts of the run, the first start first.
    """
    # An online start also sends what the server lacks of earlier starts, and contains it in its own file.
    last_online = max((i for i, path in enumerate(starts) if not is_offline(path)), default=0)
    return [path for path in starts[last_online:] if not path.with_suffix(".wandb.synced").exists()]


def upload_command(starts: Sequence[Path]) -> str | None:
    """Return the command that uploads the rest of a run; None if the server has everything."""
    rest = not_uploaded(starts)
    # Without the flag, W&B skips runs that started online.
    flag = [] if all(map(is_offline, rest)) else ["--no-skip-online"]
    return " ".join(["wandb", "sync", *flag, *(typed(path.parent) for path in rest)]) if rest else None


def missing(starts: Sequence[Path]) -> str:
    """Return a description of what the server lacks; ``wandb sync`` sends whole files, so it repeats the rest."""
    rest = not_uploaded(starts)
    known = [found[0] for path in rest if not is_offline(path) and (found := acknowledged(path))]
    total, taken = sum(len(rows(path)) for path in rest), sum(known)
    what = f"{total - taken} of {total} rows" if taken < total else "the end of the run"
    return f"{what}; {taken} rows are there and would be there twice" if taken else what
