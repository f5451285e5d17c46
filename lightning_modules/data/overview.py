"""Summarise an image folder as text: sizes of the splits, and oddities."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from lightning_modules.data.files import shown
from lightning_modules.data.layout import Split

NAMES = 3
"""Number of paths that are named for each kind of oddity."""


def overview(splits: Sequence[Split]) -> str:
    """Return the sizes of the splits and the oddities found when they were scanned, as text.

    Args:
        splits: train, val, and test if it exists.
    """
    odd: dict[str, list[str]] = {}
    for split in splits:
        for what, paths in split.odd.items():
            odd.setdefault(what, []).extend(paths)
    counts = splits[0].counts()
    low, high = min(counts), max(counts)
    sizes = [f"{split.name} {len(split):,}" for split in splits]
    sizes[0] += f" ({low:,} a class)" if low == high else f" ({low:,} to {high:,} a class)"
    text = f"{len(counts):,} classes of images: {', '.join(sizes)}{'; test: val' if len(splits) < 3 else ''}"
    lines = [text, *table(odd, root=os.path.dirname(splits[0].folder))]
    if unseen := sum(split.unseen for split in splits):
        lines.append(
            f"  the sizes of {unseen:,} files were not checked: the disk is slow. data.check=true reads all files."
        )
    return "\n".join(lines)


def table(odd: Mapping[str, Sequence[str]], root: str) -> list[str]:
    """Return one line per kind: its name, its count, and the first `NAMES` paths, relative to ``root``."""
    rows = [(what, f"{len(paths):,}", _first(paths, root)) for what, paths in odd.items() if paths]
    widths = [max((len(row[i]) for row in rows), default=0) for i in (0, 1)]
    return [f"  {what:<{widths[0]}}  {n:>{widths[1]}}  {names}" for what, n, names in rows]


def _first(paths: Sequence[str], root: str) -> str:
    names = [shown(os.path.relpath(path, root)) for path in paths[:NAMES]]
    return ", ".join([*names, "…"] if len(paths) > NAMES else names)
